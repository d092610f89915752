"""k edits of one image: network evaluations, seconds, memory and the error of a reconstruction, published and ours.

All of them with one small network, trained here for about a minute on the phantom's kidneys: 64 x 64 pixels of CT. Each
way has a process of its own, so that its memory is its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch
from lightning_fabric import Fabric
from schedules import Settings
from torch import Tensor, nn
from worker import forget_peak, memory, prepare, seconds

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.data.batches import Batches
from cfxai.diffusion.published import PublishedSampling
from cfxai.diffusion.sampling import Sampling
from cfxai.loop import train_step
from cfxai.methods.diffusion_autoencoder import DiffusionAutoencoder, Sampler
from cfxai.nn.heap import keep_freed_memory

BATCH, IMAGES = 16, 8
EDITS = (1, 4, 8)


@dataclass(frozen=True)
class Way:
    """One way to sample.

    Attributes:
        guidance: of the edits.
        error: mean |x - render(invert(x))| of test images, as a share of the intensity range.
        evaluations: of the network for one image and each number of edits, one a network and image.
        seconds: of the same.
        peak: memory in bytes that the most edits add to what one evaluation of the network has needed.
    """

    name: str
    guidance: float
    error: float
    evaluations: list[int]
    seconds: list[float]
    peak: int


def measured(settings: Settings, training: int, steps: list[int]) -> Iterator[Way]:
    """The published way, ours by default, and ours with other numbers of steps."""
    prepare(settings)
    keep_freed_memory()
    method, images = trained(settings, training)
    weights, images = {name: value.cpu() for name, value in method.modules.state_dict().items()}, images.cpu()
    default, guidance = composed()["method"].sampling, method.guidance
    assert isinstance(default, Sampling)
    others = [
        Sampling(number, default.spacing, default.solver, default.inversion, default.iterations, default.until)
        for number in steps
    ]
    samplings: list[tuple[str, Sampler, float]] = [("published, 250 and 100 steps", PublishedSampling(), 0.0)]
    samplings += [(f"cfxai, {sampling.steps} steps", sampling, guidance) for sampling in (default, *others)]
    for sampled in samplings:
        with get_context("spawn").Pool(1) as process:
            yield process.apply(way, (*sampled, weights, images, settings))


def composed(*choices: str) -> Parts:
    return Parts(compose(CONF / "dae_kidney.yaml", ["method=diffusion_autoencoder", *choices]))


def trained(settings: Settings, steps: int) -> tuple[DiffusionAutoencoder, Tensor]:
    """Our small autoencoder of kidneys, and test images. It learns all times, as the published sampling visits them."""
    torch.manual_seed(0)
    parts = composed(f"trainer.steps={steps}", "method.sampling.until=1")
    method, data = parts["method"], parts["data"]
    fabric = Fabric(accelerator=settings.device, devices=1)
    fabric.to_device(method.modules)
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    draw = Batches(data.split("train"), BATCH, seed=0, balanced=True, augment=parts["augment"])
    for step in range(steps):
        train_step(method, optimizers, fabric, draw(step), step, seed=0)
    return method, fabric.to_device(torch.from_numpy(data.split("test").images[:IMAGES]))


def way(
    name: str, sampling: Sampler, guidance: float, weights: dict[str, Tensor], images: Tensor, settings: Settings
) -> Way:
    prepare(settings)
    keep_freed_memory()
    method = composed()["method"]
    method.modules.load_state_dict(weights)
    method.modules.to(settings.device)
    images = images.to(settings.device)
    method.sampling, method.guidance = sampling, guidance
    z = method.encode(images)
    method.network(images[:1], torch.zeros(1, device=images.device), z[:1])
    forget_peak()
    before = memory()
    edit(method, images, z, EDITS[-1])
    peak = memory() - before
    again = method.render(method.encode_stochastic(images, z), z)
    error = float((images - again).abs().mean() / 2)
    counts, times = [], []
    for number in EDITS:
        with Evaluations(method.network.unet) as done:
            edit(method, images, z, number)
        counts.append(done.count)
        times.append(seconds(partial(edit, method, images, z, number), settings))
    return Way(name, guidance, error, counts, times, peak)


@torch.no_grad()
def edit(method: DiffusionAutoencoder, images: Tensor, z: Tensor, number: int) -> None:
    """The first image rendered again, and halfway to the codes of `number` others."""
    image, own = images[:1], z[:1]
    noise = method.encode_stochastic(image, own)
    method.render(noise, own)
    aims = torch.lerp(own, z[1 + torch.arange(number) % (len(z) - 1)], 0.5)
    method.render(noise.expand(number, *noise.shape[1:]), aims, own.expand_as(aims))


class Evaluations:
    """Counts the images that pass through a network."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.count = network, 0

    def __enter__(self) -> "Evaluations":
        def passed(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.count += len(inputs[0])

        self._hook = self.network.register_forward_pre_hook(passed)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
