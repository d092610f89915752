"""A study of quadrants, in images whose abnormal ones have a bright spot in the upper left one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfxai.attribution.targets import Contrast
from cfxai.data.dataset import Dataset
from cfxai.data.export import Origin
from cfxai.errors import UnsuitableError
from cfxai.protocols import Counterfactual
from cfxai.region_study.analysis import analyse
from cfxai.region_study.measurement import Measured, measure
from cfxai.region_study.questions import Questions
from cfxai.region_study.sample import usable_regions
from cfxai.regions.grid import Grid

CPU = torch.device("cpu")


def dataset(patients: int = 16, *, both_kinds: bool = False) -> Dataset:
    """Two noisy images a patient; the abnormal ones have a bright spot in the upper left quadrant."""
    label = np.tile([0, 1], patients) if both_kinds else np.repeat(np.arange(patients) % 2, 2)
    images = np.random.default_rng(0).uniform(-1, -0.6, (2 * patients, 1, 12, 12)).astype(np.float32)
    images[label == 1, :, 2:5, 2:5] = 0.9
    return Dataset(
        images=images,
        labels=label,
        masks=None,
        healthy=None,
        ids=[f"image <{i}>" for i in range(2 * patients)],
        groups=[f"patient-{i // 2:02d}" for i in range(2 * patients)],
        origin=Origin(["a"] * 2 * patients, list(range(2 * patients)), {}),
    )


class Bright(nn.Module):
    """Abnormal when a pixel is bright."""

    def forward(self, image: Tensor) -> Tensor:
        z = 10 * image.flatten(1).amax(1)
        return torch.stack([-z / 2, z / 2], 1)


class Brightness:
    """Positive where the image is bright."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def attribute(self, image: Tensor, target: Any) -> Tensor:
        self.asked.append(target)
        return image.mean(1) + 1


class Inverse:
    """Against the target everywhere, most where the image is dark."""

    def attribute(self, image: Tensor, target: Any) -> Tensor:
        return image.mean(1) - 1


class Refuses:
    def attribute(self, image: Tensor, target: Any) -> Tensor:
        raise UnsuitableError("refuses: no map of this network.")


class Darken:
    def generate(self, image: Tensor, target: Tensor) -> Counterfactual:
        return Counterfactual(image, image.clamp_max(-0.6), target)


def measured(data: Dataset | None = None, explainers: Any = None, **settings: Any) -> Measured:
    data = data or dataset()
    return measure(
        explainers or {"brightness": Brightness(), "inverse": Inverse()}, Bright(), data, Grid(rows=2, columns=2),
        Contrast(1, 0), CPU, indices=range(len(data)), batch_size=5, **settings,
    )  # fmt: skip


def section(found: Measured, title: str, **asked: Any) -> Any:
    sample, _ = usable_regions(found, asked.get("score", "share"))
    return next(s for s in analyse(sample, Questions(draws=200, **asked)) if s.title.startswith(title))
