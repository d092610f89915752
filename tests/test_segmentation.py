"""Training of the ruler: its loss is the published one, it learns to find drawn discs, and so does its average."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import fabric

from cfxai.loop import train_step
from cfxai.methods.segmentation import Segmentation
from cfxai.protocols import Method

SIDE = 32


def discs(step: int, size: int = 16) -> dict[str, Any]:
    """Every other image has a disc; all have a bar, which is half as bright."""
    generator = torch.Generator().manual_seed(step)
    axis = torch.arange(SIDE)
    centre = torch.randint(8, SIDE - 8, (size, 2), generator=generator)
    radius = torch.randint(3, 7, (size,), generator=generator)
    apart = (axis[:, None] - centre[:, :1, None]) ** 2 + (axis - centre[:, 1:, None]) ** 2
    mask = (apart < radius[:, None, None] ** 2) & (torch.arange(size) % 2 == 1)[:, None, None]
    image = torch.rand(size, SIDE, SIDE, generator=generator) * 0.3 - 0.8
    image[:, :, 2:5] += 0.3
    return {"image": (image + 0.6 * mask)[:, None], "mask": mask, "label": torch.arange(size) % 2}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 5, padding=2))


def dice(network: nn.Module, batch: dict[str, Any]) -> float:
    with torch.no_grad():
        found = network(batch["image"])[:, 0] > 0
    return float(2 * (found & batch["mask"]).sum() / (found.sum() + batch["mask"].sum()))


def test_it_learns_to_find_discs_and_its_average_too() -> None:
    method = Segmentation(small(), steps=80, learning_rate=3e-2)
    assert isinstance(method, Method)
    lightning = fabric()
    optimizers = {name: lightning.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    losses = [train_step(method, optimizers, lightning, discs(step), step, 0)["dice_ce"] for step in range(80)]
    assert losses[-1] < losses[0] / 2
    average, held_out = method.average.module, discs(1000, 64)
    assert not any(module.training for module in average.modules())
    assert dice(small(), held_out) < 0.4
    assert dice(average, held_out) > 0.8


class Given(nn.Module):
    """Logits that are the image, times what is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * image


@pytest.mark.parametrize("lesions", [1.0, 0.0])
def test_the_loss_is_dice_of_all_pixels_and_cross_entropy_of_each(lesions: float) -> None:
    """Defined where no image has a lesion too: then Dice is lost whole."""
    batch = discs(0)
    batch["mask"] = batch["mask"] & bool(lesions)
    method = Segmentation(Given(), steps=10)
    name, terms = next(method.losses(batch, 0))
    p, y = batch["image"][:, 0].sigmoid(), batch["mask"].float()
    overlap = 2 * (p * y).sum() / (p.sum() + y.sum())
    each = -(y * p.log() + (1 - y) * (1 - p).log())
    assert name == "network"
    assert terms["dice_ce"].item() == pytest.approx(float(1 - overlap + each.mean()), rel=1e-5)
    assert lesions or float(overlap) == 0


def test_the_learning_rate_rises_and_falls() -> None:
    method = Segmentation(Given(), steps=100, learning_rate=2.0)

    def rate(step: int) -> float:
        next(method.losses(discs(0, 2), step))
        return method.optimizers["network"].param_groups[0]["lr"]

    assert [rate(0), rate(50)] == pytest.approx([2.0 / 5, 1.0])
    assert rate(25) == pytest.approx(1 + math.cos(math.pi / 4))
    assert 0 < rate(99) < 0.001
