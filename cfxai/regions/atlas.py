"""One label map carried to every image, by the place and size of the body."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cfxai.errors import ConfigError, DataError
from cfxai.protocols import Mask, RegionMaps
from cfxai.regions.atlas_file import read_label_map
from cfxai.regions.body import find_body


class Atlas:
    """The named labels of an atlas, whose labelled part (all but 0) is laid onto the body of each image.

    The atlas must therefore label the whole body; what has no name of its own needs a label all the same. Where the
    carried atlas and the body do not overlap well, the image has empty regions, whose scores are NaN.

    Args:
        file: its label map: PNG, NIfTI, or `.npz` with one array or one called "labels"; see `read_label_map`.
        labels: name -> label, or labels that make it up together.
        align: `box`: bounding box to bounding box, for bodies that fit into the image; `affine`: centre and second
            moments, by the affine map that moves least: it shifts, stretches and shears, but does not turn.
        least: Dice of carried atlas and body below which an image has no regions, in [0, 1].

    Raises:
        ConfigError: a label that the file does not have, or an unknown `align`. DataError: the file cannot be read, or
            (when called) has another number of axes than the images.
    """

    def __init__(
        self,
        *,
        file: str | Path,
        labels: Mapping[str, int | Sequence[int]],
        align: Literal["box", "affine"] = "box",
        least: float = 0.8,
    ) -> None:
        if align not in ("box", "affine"):
            raise ConfigError(f"regions.align: choose box or affine, not '{align}'.")
        atlas = torch.from_numpy(read_label_map(Path(file).expanduser()))
        chosen = {name: [label] if isinstance(label, int) else list(label) for name, label in labels.items()}
        for name, found in chosen.items():
            if missing := [label for label in found if label == 0 or not (atlas == label).any()]:
                raise ConfigError(f"regions.labels.{name}: {file} has no region with label {missing[0]}.")
        self.file, self.least = file, least
        self.names = list(chosen)
        self._frame = _bounding_box if align == "box" else _moments
        self._body = atlas != 0
        maps = [torch.isin(atlas, torch.tensor(found)) for found in chosen.values()]
        self._maps = torch.stack([*maps, self._body]).float()

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        carried, overlap = self._carry(batch)
        fits = (overlap >= self.least).view(-1, *[1] * (carried.ndim - 1))
        return carried[:, :-1] * fits

    def overlap(self, batch: Mapping[str, Any]) -> Float[Tensor, " b"]:
        """How well the atlas fits each image: the Dice of its carried outline and the image's body, in [0, 1]."""
        return self._carry(batch)[1]

    def _carry(self, batch: Mapping[str, Any]) -> tuple[RegionMaps, Float[Tensor, " b"]]:
        image = batch["image"]
        if self._body.ndim != image.ndim - 2:
            raise DataError(f"{self.file}: has {self._body.ndim} axes, the images have {image.ndim - 2}.")
        body = find_body(image)
        place, target = self._frame(body), self._frame(self._body[None].to(image.device))
        matrix = _least_movement(place[1], target[1])
        shift = target[0] - (matrix @ place[0][..., None])[..., 0]
        # For each pixel of the image, the atlas where the map takes it; outside the atlas there is nothing.
        grid = F.affine_grid(torch.cat([matrix, shift[..., None]], 2), list(image.shape), align_corners=False)
        atlas = self._maps.to(image.device).expand(len(image), *self._maps.shape)
        carried = F.grid_sample(atlas, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        outline = carried[:, -1]
        both = (outline * body).flatten(1).sum(1)
        return carried, 2 * both / (outline.flatten(1).sum(1) + body.flatten(1).sum(1)).clamp_min(1)


Frame = tuple[Float[Tensor, "b axes"], Float[Tensor, "b axes axes"]]
"""Centre and spread of a body in coordinates from -1 to 1, in torch's order: columns first."""


def _moments(body: Mask) -> Frame:
    """Mean and covariance of the body's pixels."""
    points, weight = _points(body)
    centre = weight @ points
    off = points - centre[:, None]
    return centre, (off * weight[..., None]).transpose(1, 2) @ off


def _bounding_box(body: Mask) -> Frame:
    """Its centre, and its squared half sides on the diagonal."""
    points, weight = _points(body)
    inside = (weight > 0)[..., None]
    pixel = points.new_tensor([1 / length for length in reversed(body.shape[1:])])  # half of one
    low = torch.where(inside, points, torch.inf).amin(1) - pixel
    high = torch.where(inside, points, -torch.inf).amax(1) + pixel
    low, high = low.clamp_min(-1), high.clamp_max(1)
    return (low + high) / 2, torch.diag_embed(((high - low) / 2) ** 2)


def _points(body: Mask) -> tuple[Float[Tensor, "pixels axes"], Float[Tensor, "b pixels"]]:
    """All pixels' coordinates, and their weights, which sum to 1; without a body, all pixels count."""
    sides = [(torch.arange(length, device=body.device) * 2 + 1) / length - 1 for length in body.shape[1:]]
    points = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2).flip(1)
    inside = body.flatten(1)
    weight = (inside | ~inside.any(1, keepdim=True)).float()
    return points, weight / weight.sum(1, keepdim=True)


def _least_movement(
    place: Float[Tensor, "b axes axes"], target: Float[Tensor, "1 axes axes"]
) -> Float[Tensor, "b axes axes"]:
    """The symmetric A with A place A = target, which moves points least on average (Olkin & Pukelsheim 1982)."""
    root, inverse = _root(place), _root(place, -0.5)
    return inverse @ _root(root @ target @ root) @ inverse


def _root(matrix: Float[Tensor, "b axes axes"], power: float = 0.5) -> Float[Tensor, "b axes axes"]:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.clamp_min(1e-6) ** power) @ vectors.transpose(1, 2)
