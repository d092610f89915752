"""The training steps that `dae.py` compares, each in a process of its own: the same weights on the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import public_dae
import published_dae
import torch
from lightning_fabric import Fabric
from schedules import KEPT, OURS, PEER, Settings
from torch import Tensor, nn
from worker import Work, memory, prepare, seconds

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.loop import train_step
from cfxai.methods.diffusion_autoencoder import DiffusionAutoencoder
from cfxai.nn.heap import keep_freed_memory
from cfxai.nn.memory_format import convolve_fast

BATCHES, COMPARED = 4, 3
FULL, MIXED = "32-true", "cfxai, mixed precision"
CHANNELS = 64
"""Of the published networks at the finest resolution."""
PASSES = 10
"""Over the weights: Adam reads them, their gradient and two moments, and writes three; their average is renewed."""
Step = Callable[[int], dict[str, float]]
"""The number of a step -> its loss."""


@dataclass(frozen=True)
class First:
    """What the first steps tell.

    Attributes:
        losses: of the first steps, without dropout.
        peak: memory in bytes that training adds.
        flops: of one step.
        stepped: bytes that stepping the weights reads and writes, at the least.
        weights: how many there are.
    """

    losses: list[float]
    peak: int
    flops: int
    stepped: int
    weights: int


class Measured:
    """What this process measures."""

    step: Step
    network: nn.Module
    settings: Settings


def begin(name: str, settings: Settings) -> None:
    """Prepares a process for its schedule."""
    prepare(settings)
    half = settings.device == "cuda"
    precision = settings.precision if name == MIXED else FULL
    fabric = Fabric(accelerator=settings.device, devices=1, precision=precision)  # type: ignore[arg-type]
    method = initial(settings)
    fabric.to_device(method.modules)
    Measured.network, Measured.settings = method.autoencoder, settings
    images = [fabric.to_device(image) for image in batches(settings)]
    if name in (OURS, MIXED):
        Measured.step = ours(method, images, fabric)
    elif name == PEER:
        assert settings.peer is not None
        width = round(CHANNELS * settings.width)
        Measured.network, Measured.step = public_dae.schedule(settings.peer, method, images, width, half)
    else:
        if name == KEPT:
            keep_freed_memory()
        Measured.step = published_dae.schedule(method, images, half)


def initial(settings: Settings) -> DiffusionAutoencoder:
    """`compat=dae2024` as a user composes it; the same weights in every process.

    Layers that start at zero, and would hide what the others say, do not.
    """
    torch.manual_seed(0)
    choices = ["compat=dae2024", f"autoencoder.width={round(CHANNELS * settings.width)}"]
    method = Parts(compose(CONF / "dae_kidney.yaml", choices))["method"].autoencoder
    assert isinstance(method, DiffusionAutoencoder)
    for parameter in method.autoencoder.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    method.network.load_state_dict(method.autoencoder.state_dict())
    return method


def batches(settings: Settings) -> list[Tensor]:
    """Images in [-1, 1]."""
    random = torch.Generator().manual_seed(0)
    shape = (settings.batch, 1, settings.size, settings.size)
    return [torch.rand(shape, generator=random) * 2 - 1 for _ in range(BATCHES)]


def ours(method: DiffusionAutoencoder, images: list[Tensor], fabric: Fabric) -> Step:
    """As `cfxai.training` and `cfxai.loop` drive it."""
    keep_freed_memory()
    convolve_fast(method.modules)
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return lambda step: train_step(method, optimizers, fabric, {"image": images[step % BATCHES]}, step, seed=0)


def first_steps(name: str, settings: Settings) -> First:
    """Those of this process, which it keeps for `timed`."""
    begin(name, settings)
    step, network = Measured.step, Measured.network
    before = memory()
    network.eval()  # no dropout: layouts draw its masks in other orders
    losses = [step(number)["denoise"] for number in range(COMPARED)]
    network.train()
    step(COMPARED)
    peak = memory() - before
    with Work() as done:
        step(COMPARED + 1)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return First(losses, peak, done.flops, 4 * PASSES * weights, weights)


def timed(number: int) -> float:
    """Seconds of one step."""
    return seconds(partial(Measured.step, number), Measured.settings)
