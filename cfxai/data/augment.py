"""Random flips, small moves, contrast changes and holes in whole batches; masks, regions and healthy images follow."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

HOLE = (0.03, 0.12)

LEFT_TO_RIGHT = {"sagittal": None, "sagittal_volume": 2}
"""The axis that runs from the patient's left to right, counted from the columns, where it is not these."""


@dataclass(frozen=True)
class Augment:
    """Changes each image of a batch by its own random draw: the last two axes turn, all axes shift and scale.

    Attributes:
        flip: probability of a left-right mirror image; of sagittal slices, which show neither side, there is none.
        rotation: largest angle, degrees.
        shift: largest shift, as a part of the image's side.
        scale: largest relative change of size.
        contrast: largest relative change of contrast about mid-grey.
        brightness: largest offset, in units of [-1, 1].
        holes: probability of a black disc (ball) anywhere in the image, its radius `HOLE` parts of the image's side.
            Label and masks stay, so that a classifier learns that covering a lesion does not make an image normal.
        plane: that volumes are looked at in, see `Data`; None for pictures.
    """

    flip: float = 0.5
    rotation: float = 10.0
    shift: float = 0.05
    scale: float = 0.1
    contrast: float = 0.1
    brightness: float = 0.05
    holes: float = 0.0
    plane: str | None = None

    def __call__(self, batch: dict[str, Any], generator: Generator) -> dict[str, Any]:
        """The changed batch; `generator` decides all. What moves in from outside is -1 (masks: false, regions: 0)."""
        image = batch["image"]
        theta = self._affine(image, generator)
        gain = 1 + self.contrast * _uniform(len(image), generator)
        offset = self.brightness * _uniform(len(image), generator)
        changed = dict(batch)
        for key in {"image", "healthy"} & batch.keys():
            per_image = [-1] + [1] * (image.ndim - 1)
            moved = _move(batch[key] + 1, theta, "bilinear") - 1
            changed[key] = (moved * gain.view(per_image) + offset.view(per_image)).clamp(-1, 1)
        for key in {"mask", "organ"} & batch.keys():
            changed[key] = _move(batch[key][:, None].float(), theta, "nearest")[:, 0] > 0.5
        if "region" in batch:
            moved = _move(batch["region"][:, None].float(), theta, "nearest")[:, 0]
            changed["region"] = moved.round().to(batch["region"].dtype)
        if self.holes > 0:
            hole = self._holes(image, generator)
            for key in {"image", "healthy"} & batch.keys():
                changed[key] = changed[key].masked_fill(hole, -1.0)
        return changed

    def _affine(self, image: Float[Tensor, "b c *spatial"], generator: Generator) -> Float[Tensor, "b d e"]:
        """Where each pixel comes from, in the coordinates of `affine_grid` (x first, [-1, 1] across each axis)."""
        count, dimensions = len(image), image.ndim - 2
        height, width = image.shape[-2:]
        angle = math.radians(self.rotation) * _uniform(count, generator)
        size = 1 / (1 + self.scale * _uniform(count, generator))
        mirror = 1 - 2 * (torch.rand(count, generator=generator) < self.flip).float()
        theta = torch.zeros(count, dimensions, dimensions + 1)
        theta[:, 0, 0] = size * angle.cos()
        theta[:, 0, 1] = -size * angle.sin() * height / width
        theta[:, 1, 0] = size * angle.sin() * width / height
        theta[:, 1, 1] = size * angle.cos()
        if dimensions == 3:
            theta[:, 2, 2] = size
        if (sides := LEFT_TO_RIGHT.get(self.plane or "", 0)) is not None:
            theta[:, sides] *= mirror[:, None]
        for axis in range(dimensions):
            theta[:, axis, -1] = 2 * self.shift * _uniform(count, generator)
        return theta

    def _holes(self, image: Float[Tensor, "b c *spatial"], generator: Generator) -> Bool[Tensor, "b 1 *spatial"]:
        """True inside each image's hole, if it has one."""
        count, dimensions = len(image), image.ndim - 2
        centre = torch.rand(count, dimensions, generator=generator)
        radius = HOLE[0] + (HOLE[1] - HOLE[0]) * torch.rand(count, generator=generator)
        radius[torch.rand(count, generator=generator) >= self.holes] = 0
        axes = [(torch.arange(length) + 0.5) / length for length in image.shape[2:]]
        pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        from_centre = pixels - centre.view(count, dimensions, *[1] * dimensions)
        return from_centre.norm(dim=1, keepdim=True) < radius.view(count, *[1] * (dimensions + 1))


def _uniform(count: int, generator: Generator) -> Float[Tensor, " b"]:
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(count, generator=generator) - 1


def _move(
    values: Float[Tensor, "b c *spatial"], theta: Float[Tensor, "b d e"], mode: str
) -> Float[Tensor, "b c *spatial"]:
    grid = F.affine_grid(theta, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
