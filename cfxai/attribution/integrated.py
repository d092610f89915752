"""Gradients along the way from a baseline to the image, which add up to the change of the score."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.gradients import input_gradient
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Target


class IntegratedGradients(Channelwise):
    """(x - x') times the mean of ds/dx from x' to x, s the target's score (Sundararajan et al. 2017, arXiv:1703.01365).

    The integral is taken by Gauss-Legendre quadrature. Its values must add up to s(x) - s(x'), the completeness axiom:
    an image that misses it by more than `tolerance` is done again with twice the steps. The gap is relative to how far
    the score moves on the way in all, up and down, which for a steady rise is s(x) - s(x').

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        baseline: x', in [-1, 1]: black, since mid-grey looks like a lesion on CT.
        steps: points on the way, each a forward and a backward pass; 1 or more.
        most_steps: the doubling ends here.
        tolerance: largest relative gap in completeness.
        batch_size: images per pass.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; only of `sum` completeness holds.

    Raises:
        ConfigError: a number outside its range.
        UnsuitableError: (when asked) an image still misses completeness with the most steps.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        baseline: float = -1.0,
        steps: int = 32,
        most_steps: int = 512,
        tolerance: float = 0.05,
        batch_size: int = 32,
        channels: str = "sum",
    ) -> None:
        super().__init__(channels)
        if not 1 <= steps <= most_steps or batch_size < 1 or tolerance <= 0:
            raise ConfigError(
                f"integrated_gradients: steps={steps}, most_steps={most_steps}, batch_size={batch_size}, "
                f"tolerance={tolerance}; needed are 1 <= steps <= most_steps, batch_size >= 1 and tolerance > 0."
            )
        self.classifier, self.baseline, self.steps, self.most_steps = classifier, baseline, steps, most_steps
        self.tolerance, self.batch_size = tolerance, batch_size

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        question, found = as_target(target), torch.zeros_like(image, dtype=torch.float32)
        steps, left = self.steps, torch.arange(len(image), device=image.device)
        while True:
            parts, gap = self._integrate(image[left], question[left], steps)
            done = gap <= self.tolerance
            found[left[done]] = parts[done]
            left, gap = left[~done], gap[~done]
            if not len(left):
                return found
            if 2 * steps > self.most_steps:
                raise UnsuitableError(
                    f"integrated_gradients: with {steps} steps a map's sum misses the change of the score by "
                    f"{float(gap.max()):.2g} of its way, more than tolerance={self.tolerance}; raise most_steps."
                )
            steps *= 2

    def _integrate(self, image: Image, question: Target, steps: int) -> tuple[Image, Tensor]:
        """Contributions, and by which share of the score's way [b] their sum misses its change."""
        change = (image - self.baseline).float()
        gradient, moved = torch.zeros_like(change), change.new_zeros(len(image))
        nodes, weights = (torch.from_numpy(values / 2).to(change) for values in np.polynomial.legendre.leggauss(steps))
        at_once = max(1, self.batch_size // len(image))
        for where, weight in zip((nodes + 0.5).split(at_once), weights.split(at_once), strict=True):
            points = torch.cat([self.baseline + alpha * change for alpha in where])
            slopes = input_gradient(self.classifier, points, question[_repeated(image, len(where))])
            slopes = slopes.unflatten(0, (len(where), len(image)))
            gradient += torch.tensordot(weight, slopes, 1)
            moved += weight @ (slopes * change).flatten(2).sum(2).abs()
        parts = change * gradient
        with torch.no_grad(), frozen(self.classifier):
            ends = [question.score(self.classifier(end)) for end in (image, torch.full_like(image, self.baseline))]
        rise = (ends[0] - ends[1]).float()
        miss = (parts.flatten(1).sum(1) - rise).abs()
        return parts, miss / torch.maximum(moved, rise.abs()).clamp_min(torch.finfo(torch.float32).tiny)


class ExpectedGradients(Channelwise):
    """The mean of (x - x') ds/dx at random points between x and random baselines x'.

    Erion et al. 2021, arXiv:1906.10670; also known as GradientSHAP. An estimate: its sum is s(x) minus the
    mean score of the baselines only on average. The points are spread evenly over the way, one at random in each of
    `samples` equal parts of it.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        baselines: grey values in [-1, 1] of constant images, or images [n c *spatial] of the data set, the paper's
            choice; one is drawn for each point.
        noise: standard deviation added to each baseline, as a share of the range [-1, 1].
        samples: points, each a forward and a backward pass; 1 or more.
        batch_size: images per pass.
        seed: of all that is drawn, the same for every image.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; of these only `sum` keeps the sign.

    Raises:
        ConfigError: a number outside its range, or baselines that are not as large as the image.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        baselines: Sequence[float] | Tensor = (-1.0,),
        noise: float = 0.05,
        samples: int = 64,
        batch_size: int = 32,
        seed: int = 0,
        channels: str = "sum",
    ) -> None:
        super().__init__(channels)
        if min(samples, batch_size, len(baselines)) < 1 or noise < 0:
            raise ConfigError(
                f"expected_gradients: samples={samples}, batch_size={batch_size}, noise={noise} and {len(baselines)} "
                "baselines; each must be 1 or more, noise 0 or more."
            )
        self.classifier, self.baselines = classifier, torch.as_tensor(baselines)
        self.noise, self.samples, self.batch_size, self.seed = noise, samples, batch_size, seed

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        question, found = as_target(target), torch.zeros_like(image, dtype=torch.float32)
        random = torch.Generator().manual_seed(self.seed)
        at_once = max(1, self.batch_size // len(image))
        for first in range(0, self.samples, at_once):
            drawn = range(first, min(first + at_once, self.samples))
            starts, where = zip(*(self._draw(sample, image, random) for sample in drawn), strict=True)
            change = torch.stack([image - start for start in starts])
            points = torch.cat([start + alpha * (image - start) for start, alpha in zip(starts, where, strict=True)])
            slopes = input_gradient(self.classifier, points, question[_repeated(image, len(drawn))])
            found += (change.float() * slopes.view_as(change)).sum(0) / self.samples
        return found

    def _draw(self, sample: int, image: Image, random: torch.Generator) -> tuple[Tensor, float]:
        """A baseline [c *spatial] and a place in [0, 1] on the way from it."""
        chosen = self.baselines[int(torch.randint(len(self.baselines), (), generator=random))]
        if chosen.ndim and chosen.shape != image.shape[1:]:
            raise ConfigError(
                f"expected_gradients: baselines of {tuple(chosen.shape)} for images of {tuple(image.shape[1:])}."
            )
        noise = torch.randn(image.shape[1:], generator=random) * (2 * self.noise)
        where = (sample + float(torch.rand((), generator=random))) / self.samples
        return (chosen.cpu() + noise).to(image), where


def _repeated(image: Image, times: int) -> Tensor:
    """Indices of the batch, over and over."""
    return torch.arange(len(image), device=image.device).repeat(times)
