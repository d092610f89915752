"""One image in its native values, with what is known of its geometry."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cfxai.errors import DataError

Pixels = Float[np.ndarray, "c *spatial"]
Images = Float[np.ndarray, "n c *spatial"]
Masks = Bool[np.ndarray, "n *spatial"]


@dataclass(frozen=True)
class Scan:
    """One image in its native values.

    Attributes:
        pixels: [c, row, column] for a picture, [1, i, j, k] in the file's voxel order for a volume.
        affine: voxel to patient coordinates, RAS, mm; None for pictures.
        spacing: mm along each spatial axis; None when the file does not say.
        value_range: least and greatest value that the format can hold; None for HU, MR and other open scales.
        file_shape: spatial shape as stored, before axes of length one were dropped or added.
    """

    pixels: Pixels
    affine: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None
    value_range: tuple[float, float] | None = None
    file_shape: tuple[int, ...] = ()

    @property
    def is_volume(self) -> bool:
        """Whether there are three spatial axes."""
        return self.pixels.ndim == 4


def volume(values: Float[np.ndarray, "..."], affine: np.ndarray, path: Path) -> Scan:
    """A 3-D scan in physical units; trailing axes of length one are dropped, a flat image gets a slice axis."""
    shape = values.shape
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise DataError(f"{path}: has shape {shape}; save each 3-D volume of the series as its own file.")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and spacing.min() > 0 and abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-3):
        raise DataError(
            f"{path}: its header has no usable geometry (affine {np.round(affine[:3], 3).tolist()}); mend the header."
        )
    return Scan(values[None], affine, tuple(spacing.tolist()), None, shape)
