"""The volume that a body is painted on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from cfxai.data.ct.shapes import Field, Number, Points, Shape, Waves

Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a volume of `size` x `size` x `slices` voxels."""

    size: int
    spacing: float
    slices: int
    slice_thickness: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.slices

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Voxel index to mm, RAS: the indices run to the patient's right, front and head."""
        steps = np.array([self.spacing, self.spacing, self.slice_thickness])
        affine = np.diag([*steps, 1.0])
        affine[:3, 3] = -steps * (np.array(self.shape) - 1) / 2
        return affine

    @cached_property
    def points(self) -> Points:
        """The position of every voxel's centre, mm."""
        step, start = self.affine.diagonal()[:3], self.affine[:3, 3]
        points = np.indices(self.shape) * step[:, None, None, None] + start[:, None, None, None]
        return points.astype(np.float32)


class Canvas:
    """A volume in HU, at first air, on which solids are painted one over the other, edges with partial volume.

    Positions are turned by `axes`, whose rows are the directions in which shapes have theirs, and then bent by a smooth
    random displacement of about `warp` mm, so that neighbours bend together.
    """

    def __init__(
        self,
        grid: Grid,
        rng: np.random.Generator,
        warp: float = 2.0,
        axes: Float[np.ndarray, "3 3"] | None = None,
    ) -> None:
        self.grid = grid
        self.margin = 4 * warp + grid.spacing
        points = grid.points
        if axes is not None:
            points = np.tensordot(axes.astype(np.float32), points, 1)
            self.margin += float(np.abs(points - grid.points).max())
        self.points = points + warp * np.stack([Waves(rng, 110, count=3)(points) for _ in range(3)])
        self.hu = np.full(grid.shape, -1000, np.float32)

    def window(self, shape: Shape) -> Window:
        """The voxels that `shape` can touch."""
        low, high = shape.bounds
        step, start = self.grid.affine.diagonal()[:3], self.grid.affine[:3, 3]
        first = np.clip(np.floor((low - self.margin - start) / step), 0, self.grid.shape).astype(int)
        last = np.clip(np.ceil((high + self.margin - start) / step) + 1, first, self.grid.shape).astype(int)
        x, y, z = map(slice, first.tolist(), last.tolist())
        return x, y, z

    def coverage(self, shape: Shape) -> tuple[Window, Field]:
        """The fraction of each voxel inside `shape`, for the voxels of its window."""
        window = self.window(shape)
        distance = shape.distance(self.points[:, *window])
        return window, np.clip(0.5 - distance / (1.2 * self.grid.spacing), 0, 1)

    def paint(self, shape: Shape, hu: Number | Callable[[Points], Field]) -> None:
        """Fill `shape` with a value in HU, or with a texture of position."""
        window, coverage = self.coverage(shape)
        value = hu(self.points[:, *window]) if callable(hu) else hu
        self.hu[window] += coverage * (value - self.hu[window])
