"""k edits of one image: network evaluations, seconds and the error of a reconstruction, published and ours.

All of them with one small network, trained here for about a minute on the phantom's kidneys: 64 x 64 pixels of CT.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from schedules import Settings
from torch import Tensor, nn
from worker import prepare, seconds

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
    """

    name: str
    guidance: float
    error: float
    evaluations: list[int]
    seconds: list[float]


def measured(settings: Settings, training: int, steps: list[int]) -> Iterator[Way]:
    """The published way, ours by default, and ours with other numbers of steps."""
    prepare(settings)
    keep_freed_memory()
    method, images = trained(settings, training)
    default, guidance = composed()["method"].sampling, method.guidance
    assert isinstance(default, Sampling)
    others = [
        Sampling(number, default.spacing, default.solver, default.inversion, default.iterations, default.until)
        for number in steps
    ]
    yield way("published, 250 and 100 steps", method, PublishedSampling(), 0.0, images, settings)
    for sampling in (default, *others):
        yield way(f"cfxai, {sampling.steps} steps", method, sampling, guidance, images, settings)


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
    name: str, method: DiffusionAutoencoder, sampling: Sampler, guidance: float, images: Tensor, settings: Settings
) -> Way:
    method.sampling, method.guidance = sampling, guidance
    z = method.encode(images)
    again = method.render(method.encode_stochastic(images, z), z)
    error = float((images - again).abs().mean() / 2)
    counts, times = [], []
    for number in EDITS:
        with Evaluations(method.network.unet) as done:
            edit(method, images, z, number)
        counts.append(done.count)
        times.append(seconds(partial(edit, method, images, z, number), settings))
    return Way(name, guidance, error, counts, times)


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
