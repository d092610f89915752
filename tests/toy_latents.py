"""An autoencoder whose code can be computed by hand, a classifier of it, and images for both."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ByHand:
    """z = mean brightness of the upper and of the lower half; x_T = what is left; rendering adds both again."""

    def __init__(self) -> None:
        self.network: nn.Module = nn.Linear(1, 1)
        self.modules, self.optimizers = nn.ModuleDict({"network": self.network}), {}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "autoencoder", {"denoise": batch["image"].mean()}

    def checks(self, image: Tensor) -> dict[str, float]:
        return {"reconstruction_error": 0.0}

    def encode(self, image: Tensor) -> Tensor:
        return torch.stack([image[:, 0, :4].mean((1, 2)), image[:, 0, 4:].mean((1, 2))], 1)

    def encode_stochastic(self, image: Tensor, z: Tensor) -> Tensor:
        return image - self._halves(z)

    def render(self, noise: Tensor, z: Tensor, origin: Tensor | None = None) -> Tensor:
        return noise + self._halves(z)

    def _halves(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(4, 1)[:, None, :, None].expand(-1, 1, 8, 8)


class UpperIsBright(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        z = 20 * image[:, 0, :4].mean((1, 2))
        return torch.stack([-z, z], 1)


def batch(size: int, seed: int, *, grades: int = 2) -> dict[str, Any]:
    """The upper half's brightness rises with the grade; the lower half's is of no matter."""
    random = torch.Generator().manual_seed(seed)
    grade = torch.arange(size) % grades
    image = 0.02 * torch.randn(size, 1, 8, 8, generator=random)
    image[:, :, :4] += (0.3 * (2 * grade / (grades - 1) - 1))[:, None, None, None]
    image[:, :, 4:] += 0.2 * torch.randn(size, 1, 1, 1, generator=random)
    names = [f"p{i}" for i in range(size)]
    return {"image": image, "label": (grade > 0).long(), "grade": grade, "group": names}


def aged(size: int, seed: int) -> dict[str, Any]:
    """The lower half is brighter in the old, and the ill are older."""
    told, random = batch(size, seed), torch.Generator().manual_seed(seed)
    age = 50 + 15 * told["label"] + 10 * torch.randn(size, generator=random)
    told["image"][:, :, 4:] += ((age - 60) / 100)[:, None, None, None]
    told["image"] *= 0.4  # no move shall reach the ends of the range
    return told | {"columns": {"age": [f"{years:.1f}" for years in age], "site": ["A", "B"] * (size // 2)}}
