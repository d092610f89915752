"""The schedules that `coin_step.py` compares: each trains the same weights on the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import public_code
import published_step
import torch
from lightning_fabric import Fabric
from torch import Tensor

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.loop import train_step
from cfxai.methods.coin import Coin
from cfxai.nn.heap import keep_freed_memory
from cfxai.nn.memory_format import convolve_fast

CYCLE = 5  # steps from one update of the generator to the next
Step = Callable[[int], dict[str, float]]
"""The number of a step -> its loss terms, by our names."""


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    size: int
    batch: int
    width: float
    device: str
    precision: str
    threads: int
    processor_time: bool
    peer: Path | None


PUBLISHED, KEPT, OURS, PEER = "published", "published, memory kept", "cfxai", "public code"


def schedule(name: str, settings: Settings) -> Step:
    """That schedule, ready for its first step."""
    fabric = Fabric(accelerator=settings.device, devices=1, precision=settings.precision)  # type: ignore[arg-type]
    method = initial(settings)
    fabric.to_device(method.modules)
    fabric.to_device(method.classifier)
    images = [fabric.to_device(image) for image in batches(settings)]
    if name == OURS:
        return ours(method, images, fabric)
    if name == PEER:
        assert settings.peer is not None
        return public_code.schedule(settings.peer, method, images, settings.width)
    if name == KEPT:
        keep_freed_memory()
    return published_step.schedule(method, images)


def ours(method: Coin, images: list[Tensor], fabric: Fabric) -> Step:
    """As `cfxai.training` and `cfxai.loop` drive it."""
    keep_freed_memory()
    convolve_fast(method.modules)
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return lambda step: train_step(method, optimizers, fabric, {"image": images[step % CYCLE]}, step, seed=0)


def initial(settings: Settings) -> Coin:
    """`compat=coin2024` as a user composes it, explaining a ResNet-18; the same weights in every process."""
    networks = [f"{name}.width={settings.width}" for name in ("generator", "discriminator")]
    torch.manual_seed(0)
    return Parts(compose(CONF / "coin_kidney.yaml", ["compat=coin2024", "classifier=torchvision", *networks]))["method"]


def batches(settings: Settings) -> list[Tensor]:
    """The images of one cycle's steps, in [-1, 1]."""
    random = torch.Generator().manual_seed(0)
    shape = (settings.batch, 1, settings.size, settings.size)
    return [torch.rand(shape, generator=random) * 2 - 1 for _ in range(CYCLE)]
