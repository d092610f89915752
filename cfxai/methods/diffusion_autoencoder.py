"""The diffusion autoencoder: a code z of what is in an image, and a noise x_T of everything else.

An encoder makes z of the image; a diffusion model, told z, learns to remove noise from it (Preechakul et al. 2022,
arXiv:2111.15640). Inverted under z, the diffusion makes of each image the noise x_T that it renders the image from; x_T
kept and z moved, it renders the counterfactual (Atad et al. 2024, arXiv:2408.01571). Nothing here needs labels; where
there are some, a linear head on z may help it, early on, to notice what is small.

`compat=dae2024` selects the published schedule, prediction, data range, averaging and samplers.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, cast, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from cfxai.diffusion.denoiser import Denoiser
from cfxai.diffusion.grid import time_grid
from cfxai.diffusion.prediction import Prediction, Weighting, target, weight
from cfxai.diffusion.schedule import Schedule
from cfxai.diffusion.solvers import ddim
from cfxai.errors import ConfigError, DataError
from cfxai.losses import ordinal_cross_entropy
from cfxai.nn.autoencoder import Autoencoder
from cfxai.nn.compression import Compression
from cfxai.nn.ema import Average
from cfxai.nn.ordinal_head import OrdinalHead
from cfxai.protocols import Image

Latent = Float[Tensor, "b z"]
Noise = Float[Tensor, "b k *coarse"]
"""Of the shape of what diffuses: the image, or its codes."""
COMPRESSION_RATE = 1e-3
"""Of Adam, for the compression."""
CHECK_STEPS = 20
"""In which `z_matters` renders."""


@runtime_checkable
class Sampler(Protocol):
    """From images to noise and back; `cfxai.diffusion.sampling.Sampling` is one."""

    until: float
    """The share of all times at which inversion ends. Later ones are never visited, and therefore not learnt."""

    def invert(self, denoise: Denoiser, image: Image) -> Image: ...

    def render(self, denoise: Denoiser, noise: Image) -> Image: ...


class DenoisingLoss:
    """What the network predicts, whose squared error counts, and how much the head on z does.

    Args:
        prediction: of the network: `eps`, `x0` or `v`.
        weighting: squared errors of `eps` (the published), `x0` or `v`, or `min_snr`; whatever the prediction.
        gamma: of `min_snr`: the signal-to-noise ratio above which less noise counts no more.
        head: weight of the cross-entropy of the labels under a linear head on z; 0 = no labels are used.
        head_until: the share of the training over which that weight falls to zero, linearly.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """

    def __init__(
        self,
        prediction: str = "v",
        weighting: str = "eps",
        gamma: float = 5.0,
        head: float = 0.0,
        head_until: float = 1.0,
    ) -> None:
        if prediction not in get_args(Prediction):
            raise ConfigError(f"loss.prediction: choose one of eps, x0, v, not '{prediction}'.")
        if weighting not in get_args(Weighting):
            raise ConfigError(f"loss.weighting: choose one of eps, x0, v, min_snr, not '{weighting}'.")
        if gamma <= 0:
            raise ConfigError(f"loss.gamma: must be more than 0, got {gamma}.")
        if head < 0 or not 0 < head_until <= 1:
            raise ConfigError(f"loss: head must be 0 or more and head_until in (0, 1], got {head} and {head_until}.")
        self.prediction, self.weighting = cast(Prediction, prediction), cast(Weighting, weighting)
        self.gamma, self.head, self.head_until = gamma, head, head_until


class DiffusionAutoencoder:
    """The method: its losses, and the way from image to (z, x_T) and back.

    Args:
        autoencoder: encoder and denoiser.
        schedule: of the noise. sampling: how x_T is found and rendered.
        loss: the terms and their weights.
        steps: length of the training.
        classes: of the labels, for the head on z.
        grades: how many, if the head is told them instead of the labels; null = labels.
        learning_rate, betas, weight_decay: of AdamW.
        decay: `cosine`: the learning rate falls to zero over the training; `constant`: it does not.
        clip: norm that gradients are cut to; null = none.
        average: decay of the exponential moving average of the networks, which alone encodes and renders.
        warm_up: whether early averages forget sooner; without it, the first ten thousand steps are lost on it.
        unit_range: the diffusion sees intensities in [0, 1] instead of [-1, 1] (the published code).
        compression: images become codes, which all of this then works on; null = it works on images.
        compression_share: of the steps, the first ones: they train the compression alone, if it has no weights.
        guidance: how much further than z says a rendering goes from the z that it is moved from; 0 = no further.
        at_once: images that are encoded, inverted and rendered in one pass.

    Attributes:
        network: the averaged one, which encodes and renders.

    Raises:
        ConfigError: a value out of range.
        DataError: (when asked) images without grades, where the head is told grades.
    """

    name = "diffusion_autoencoder"

    def __init__(
        self,
        autoencoder: Autoencoder,
        *,
        schedule: Schedule,
        sampling: Sampler,
        loss: DenoisingLoss,
        steps: int,
        classes: int = 2,
        grades: int | None = None,
        learning_rate: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        decay: str = "cosine",
        clip: float | None = None,
        average: float = 0.9999,
        warm_up: bool = True,
        unit_range: bool = False,
        compression: Compression | None = None,
        compression_share: float = 0.3,
        guidance: float = 0.0,
        at_once: int = 64,
    ) -> None:
        if not 0 <= compression_share < 1:
            raise ConfigError(f"method.compression_share: must be at least 0 and less than 1, got {compression_share}.")
        if decay not in ("cosine", "constant"):
            raise ConfigError(f"method.decay: choose cosine or constant, not '{decay}'.")
        if at_once < 1:
            raise ConfigError(f"method.at_once: must be 1 or more, got {at_once}.")
        if grades is not None and grades < 2:
            raise ConfigError(f"method.autoencoder.grades: must be null, or 2 or more with grade 0, got {grades}.")
        self.autoencoder, self.schedule, self.sampling, self.loss = autoencoder, schedule, sampling, loss
        self.average = Average(autoencoder, average, warm_up=warm_up)
        self.network = cast(Autoencoder, self.average.module)
        self.modules = nn.ModuleDict({"autoencoder": autoencoder, "average": self.average, "schedule": schedule})
        trained = [*autoencoder.parameters()]
        self.graded = grades is not None
        if loss.head:
            read = nn.Linear(autoencoder.latent, classes) if grades is None else OrdinalHead(autoencoder.latent, grades)
            self.modules["head"] = read
            trained += self.modules["head"].parameters()
        optimizer = AdamW(trained, learning_rate, (betas[0], betas[1]), weight_decay=weight_decay, fused=True)
        self.clips = {} if clip is None else {"autoencoder": clip}
        self.optimizers: dict[str, Optimizer] = {"autoencoder": optimizer}
        self.compression, self.first = compression, 0
        if compression is not None:
            self.modules["compression"] = compression
            if not compression.trained:
                self.first = round(compression_share * steps)
                self.optimizers["compression"] = Adam(compression.parameters(), COMPRESSION_RATE)
            else:
                compression.requires_grad_(False)
        self.steps, self.learning_rate, self.decay = steps - self.first, learning_rate, decay
        self.unit_range, self.guidance, self.at_once = unit_range, guidance, at_once
        self.latest = math.ceil(sampling.until * (schedule.length - 1))

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        if self.compression is not None and step < self.first:
            yield "compression", self.compression.losses(self._ranged(batch["image"]))
        else:
            yield "autoencoder", self._terms(batch, step - self.first)
            self.average.update(self.autoencoder)

    def _terms(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        self._schedule_learning_rate(step)
        image, loss = self._entered(batch["image"]), self.loss
        time = torch.randint(self.latest + 1, (len(image),), device=image.device)
        noise = torch.randn_like(image)
        alpha, sigma = self.schedule.of(time, image)
        z = self.autoencoder.encode(image)
        said = self.autoencoder(alpha * image + sigma * noise, time.float(), z)
        error = (said.float() - target(loss.prediction, image, noise, alpha, sigma)).square().flatten(1).mean(1)
        counts = weight(loss.prediction, loss.weighting, self.schedule.snr(time), loss.gamma)
        terms = {"denoise": (counts * error).mean()}
        left = 1 - step / (loss.head_until * self.steps)
        if loss.head and left > 0:
            terms["head"] = loss.head * left * self._misread(self.modules["head"](z).float(), batch)
        return terms

    def _misread(self, said: Float[Tensor, "b k"], batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """How far the head is from the labels or grades."""
        if not self.graded:
            return F.cross_entropy(said, batch["label"])
        if "grade" not in batch:
            raise DataError(
                "The images have no grades, which method.autoencoder.grades tells the head; add a column grade to the"
                " manifest, or set it to null."
            )
        return ordinal_cross_entropy(said, batch["grade"])

    def _schedule_learning_rate(self, step: int) -> None:
        share = (1 + math.cos(math.pi * step / self.steps)) / 2 if self.decay == "cosine" else 1.0
        for group in self.optimizers["autoencoder"].param_groups:
            group["lr"] = self.learning_rate * share

    @torch.no_grad()
    def encode(self, image: Image) -> Latent:
        """Images [b c *spatial] in [-1, 1] to z [b latent]."""
        return self._batched(lambda x: self.network.encode(self._entered(x)), image)

    @torch.no_grad()
    def encode_stochastic(self, image: Image, z: Latent) -> Noise:
        """The noise x_T that `render` makes the images [b c *spatial] of, under z."""
        return self._batched(lambda x, z: self.sampling.invert(self._denoiser(z), self._entered(x)), image, z)

    def render(self, noise: Noise, z: Latent, origin: Latent | None = None) -> Image:
        """The image [b c *spatial] that x_T becomes under z, in [-1, 1] or a little beyond; differentiable.

        With `guidance` and `origin`, the z that the image was inverted under, the network's outputs are p(z) + guidance
        (p(z) - p(origin)), two evaluations a step: what x_T remembers of the image then weighs less against z (after
        classifier-free guidance, Ho & Salimans 2022, arXiv:2207.12598). The same image again where z is `origin`.
        """
        if not self.guidance or origin is None:
            return self._batched(lambda x, z: self._left(self.sampling.render(self._denoiser(z), x)), noise, z)
        return self._batched(lambda x, *z: self._left(self.sampling.render(self._guided(*z), x)), noise, z, origin)

    @torch.no_grad()
    def checks(self, image: Image) -> dict[str, float]:
        """`reconstruction_error`, mean |x - render(x_T, z)| as a share of the range, and `z_…` of `z_matters`."""
        z = self.encode(image)
        rendered = self.render(self.encode_stochastic(image, z), z)
        told = {f"z_{name}": value for name, value in self.z_matters(image).items()} if len(image) > 1 else {}
        return {"reconstruction_error": float((image - rendered).abs().mean()) / 2, **told}

    @torch.no_grad()
    def z_matters(self, image: Image) -> dict[str, float]:
        """Whether z is used: images [b c *spatial], b > 1, are rendered from as much random noise over them as
        inversion ends in (from noise alone, unless it ends early), under their own z and under the next image's.

        `right`, `wrong`: mean |x - x'| of either; apart where z says what many pixels show. `followed`: which share of
        the way from the one z to the other the renderings have gone, encoded again. 0 where z is ignored, 1 where an
        image says what its z said, however few pixels that takes.
        """
        grid = time_grid(self.schedule, CHECK_STEPS, until=self.sampling.until)
        alpha, sigma = self.schedule.level(grid[-1])
        seen = self._batched(self._entered, image)
        noisy = alpha * seen + sigma * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)).to(seen)

        def rendered(noise: Noise, z: Latent) -> Image:
            return self._left(ddim(self._denoiser(z), noise, grid)).clamp(-1, 1)

        z = self.encode(image)
        right, wrong = (self._batched(rendered, noisy, code) for code in (z, z.roll(1, 0)))
        way, gone = z.roll(1, 0) - z, self.encode(wrong) - self.encode(right)
        return {
            "right": float((image - right).abs().mean()),
            "wrong": float((image - wrong).abs().mean()),
            "followed": float((gone * way).sum() / way.square().sum().clamp_min(torch.finfo(way.dtype).tiny)),
        }

    def _denoiser(self, z: Latent) -> Denoiser:
        return Denoiser(lambda x, time: self.network(x, time, z), self.schedule, self.loss.prediction)

    def _guided(self, z: Latent, origin: Latent) -> Denoiser:
        def predict(x: Noise, time: Float[Tensor, " b"]) -> Noise:
            there, here = self.network(torch.cat([x, x]), torch.cat([time, time]), torch.cat([z, origin])).chunk(2)
            return there + self.guidance * (there - here)

        return Denoiser(predict, self.schedule, self.loss.prediction)

    def _ranged(self, image: Image) -> Image:
        return (image + 1) / 2 if self.unit_range else image

    @torch.no_grad()
    def _entered(self, image: Image) -> Noise:
        """What diffuses: the image, or its code."""
        image = self._ranged(image)
        return image if self.compression is None else self.compression.encode(image).float()

    def _left(self, diffused: Noise) -> Image:
        """The image in [-1, 1] again."""
        image = diffused if self.compression is None else self.compression.decode(diffused)
        return 2 * image - 1 if self.unit_range else image

    def _batched(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """In full precision, so that inversion and rendering undo each other."""
        with torch.autocast(inputs[0].device.type, enabled=False):
            parts = zip(*(value.float().split(self.at_once) for value in inputs), strict=True)
            return torch.cat([run(*part) for part in parts])
