"""From the file's voxels to the pixels that are looked at, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from cfxai.data.scan import Scan

WHOLE = {"volume": "SPL", "sagittal_volume": "RIP"}
"""Volumes kept whole, looked at in axial and in sagittal slices."""

# Where [slice, row, column] point to when looked at in the radiological way: the patient's right on the viewer's
# left, anterior (axial) or head (coronal, sagittal) at the top, anterior on the viewer's left (sagittal).
PLANES = {"axial": "SPL", "coronal": "AIL", "sagittal": "RIP", **WHOLE}


@dataclass(frozen=True)
class Axis:
    """`size` equal cells over [start, stop], in pixels of an image that is `length` long; cells may lie outside."""

    length: int
    start: float
    stop: float
    size: int

    @classmethod
    def fit(cls, length: int, size: int, spacing: float, field_of_view: float | None) -> "Axis":
        """The centred `field_of_view` (mm), or the whole axis when None."""
        extent = length if field_of_view is None else field_of_view / spacing
        return cls(length, (length - extent) / 2, (length + extent) / 2, size)

    @property
    def step(self) -> float:
        """Pixels per cell."""
        return (self.stop - self.start) / self.size

    def weights(self) -> Float[np.ndarray, "size length"]:
        """The matrix that samples this axis: row i makes cell i.

        The mean over the cell when it is at least a pixel long (a block mean for whole factors), else linear
        interpolation at its centre. Each row sums to the part of the cell that lies inside the image.
        """
        edges = self.start + self.step * np.arange(self.size + 1)
        pixel = np.arange(self.length)
        if self.step >= 1:
            low = np.maximum(edges[:-1, None], pixel)
            high = np.minimum(edges[1:, None], pixel + 1)
            return (np.maximum(high - low, 0) / self.step).astype(np.float32)
        centre = (edges[:-1] + edges[1:]) / 2 - 0.5
        inside = (centre >= -0.5) & (centre <= self.length - 0.5)
        clamped = np.clip(centre, 0, self.length - 1)
        tent = np.maximum(1 - np.abs(clamped[:, None] - pixel), 0)
        return (tent * inside[:, None]).astype(np.float32)

    def cell_of_pixel(self) -> Int[np.ndarray, " length"]:
        """The cell in which each pixel's centre lies; -1 for pixels outside."""
        cell = np.floor((np.arange(self.length) + 0.5 - self.start) / self.step).astype(int)
        return np.where((cell >= 0) & (cell < self.size), cell, -1)


def resample(values: Float[np.ndarray, "..."], axes: Sequence[Axis], fill: float) -> Float[np.ndarray, "..."]:
    """`values` with its last axes sampled by `axes`; `fill` is what lies outside the image."""
    values = values - np.float32(fill)
    for axis in range(-len(axes), 0):
        weights = axes[axis].weights()
        values = np.moveaxis(np.tensordot(values, weights, axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(values + np.float32(fill))


def restore(cells: Bool[np.ndarray, "..."], axes: Sequence[Axis]) -> Bool[np.ndarray, "..."]:
    """The mask at the image's own resolution: each pixel takes its cell's value; false outside the field of view."""
    for position, axis in zip(range(-len(axes), 0), axes, strict=True):
        cell = axis.cell_of_pixel()
        inside = (cell >= 0).reshape([-1] + [1] * (-position - 1))
        cells = np.take(cells, np.maximum(cell, 0), axis=position) & inside
    return cells


@dataclass(frozen=True)
class Displayed:
    """A scan the way it is looked at.

    Attributes:
        pixels: [c n *spatial]: n slices [row, column]; n = 1 for pictures and for whole volumes [slice, row, column].
        spacing: mm of each spatial axis; 1 where unknown, so that areas count pixels.
        affine: [slice, row, column] to patient coordinates, RAS, mm; None for pictures.
        has_units: whether the spacing is known.
    """

    pixels: Float[np.ndarray, "c n *spatial"]
    spacing: tuple[float, ...]
    affine: Float[np.ndarray, "4 4"] | None
    has_units: bool

    def corners(self) -> Float[np.ndarray, "8 3"]:
        """Where a volume's corner voxels lie in the patient, mm."""
        assert self.affine is not None
        shape = self.pixels.shape[1:] if self.pixels.ndim == 4 else self.pixels.shape[2:]
        ends = np.stack(np.meshgrid(*[(0.0, length - 1.0) for length in shape], indexing="ij"), axis=-1).reshape(-1, 3)
        return ends @ self.affine[:3, :3].T + self.affine[:3, 3]


def display(scan: Scan, plane: str) -> Displayed:
    """`scan` in the radiological orientation of `plane`; pictures are left as they are."""
    has_units = scan.spacing is not None
    if scan.affine is None:
        return Displayed(scan.pixels[:, None], scan.spacing or (1.0, 1.0), None, has_units)
    pixels = to_display(scan.pixels[0], scan.affine, plane)[None]
    affine = scan.affine @ nib.orientations.inv_ornt_aff(_to_plane(scan.affine, plane), scan.pixels.shape[1:])
    spacing = spacing_in(scan.affine, plane)
    if plane in WHOLE:
        return Displayed(pixels[None], spacing, affine, has_units)
    return Displayed(pixels, spacing[1:], affine, has_units)


def spacing_in(affine: np.ndarray, plane: str) -> tuple[float, ...]:
    """mm from slice to slice, row to row and column to column of a volume looked at in `plane`."""
    order = np.argsort(_to_plane(affine, plane)[:, 0])
    return tuple(np.linalg.norm(affine[:3, :3], axis=0)[order].tolist())


def to_display(voxels: Shaped[np.ndarray, "i j k"], affine: np.ndarray, plane: str) -> Shaped[np.ndarray, "s h w"]:
    """Voxels as [slice, row, column] of `plane`: axes swapped and flipped, nothing interpolated."""
    return nib.orientations.apply_orientation(voxels, _to_plane(affine, plane))


def from_display(pixels: Shaped[np.ndarray, "s h w"], affine: np.ndarray, plane: str) -> Shaped[np.ndarray, "i j k"]:
    """The inverse of `to_display`; `affine` is the file's."""
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(PLANES[plane]), nib.io_orientation(affine))
    return nib.orientations.apply_orientation(pixels, back)


def as_displayed(plane: str) -> Float[np.ndarray, "4 4"]:
    """The affine of voxels of 1 mm that lie as `plane` shows them: [slice, row, column] to patient coordinates, RAS."""
    return nib.orientations.inv_ornt_aff(_to_plane(np.eye(4), plane), (1, 1, 1))


def _to_plane(affine: np.ndarray, plane: str) -> np.ndarray:
    return nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(PLANES[plane]))
