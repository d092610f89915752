"""The part of a scan around one kidney."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cfxai.data.abdomen.kidneys import Kidney
from cfxai.data.ct.canvas import Grid, Window


@dataclass(frozen=True)
class Cut(Grid):
    """A square of every slice of the grid `whole`, beginning at the voxel `corner` of it."""

    whole: Grid
    corner: tuple[int, int]

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """As the whole grid's, so that a voxel keeps its place in mm."""
        affine = self.whole.affine
        affine[:2, 3] += self.spacing * np.array(self.corner)
        return affine

    @property
    def window(self) -> Window:
        """Its voxels in a volume of the whole grid."""
        x, y = (slice(first, first + self.size) for first in self.corner)
        return x, y, slice(None)


def cut_around(kidney: Kidney, grid: Grid, size: int) -> Cut:
    """The square of `size` voxels nearest to the kidney's centre that lies inside `grid`."""
    centre = (np.array(kidney.solid.centre[:2]) - grid.affine[:2, 3]) / grid.spacing
    corner = np.clip(np.rint(centre - (size - 1) / 2), 0, grid.size - size).astype(int)
    x, y = corner.tolist()
    return Cut(size, grid.spacing, grid.slices, grid.slice_thickness, grid, (x, y))
