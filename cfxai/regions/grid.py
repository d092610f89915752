"""Rows and columns of equal size, for anatomy that is where it is in every image, or for none at all."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from cfxai.errors import ConfigError, DataError
from cfxai.regions.fixed import Fixed

THIRDS = ("left third", "middle third", "right third")
QUADRANTS = ("upper left quadrant", "upper right quadrant", "lower left quadrant", "lower right quadrant")


class Grid(Fixed):
    """`rows` x `columns` cells that partition the image; in volumes also `slabs` along the first axis.

    A side of n pixels is cut every n // k pixels and the last cell takes the rest, as published: 224 px in three
    columns are 74, 74 and 76. A side of fewer pixels than cells leaves the first ones empty. Three columns are named
    "left third" and so on, two by two cells "upper left quadrant" and so on, as one sees the image: in a radiograph
    shown the usual way, the left of the image is the patient's right. Others are "row 1 column 2", from the upper left,
    in volumes with "slab 1" before it, from the first slice.

    Raises:
        ConfigError: a number of cells below 1. DataError: (when called) slabs of a picture.
    """

    def __init__(self, *, rows: int = 1, columns: int = 3, slabs: int = 1) -> None:
        if min(rows, columns, slabs) < 1:
            raise ConfigError(f"regions: rows={rows}, columns={columns}, slabs={slabs}; none may be below 1.")
        self.cells = (slabs, rows, columns)
        self.names = _names(slabs, rows, columns)

    def maps(self, shape: tuple[int, ...]) -> Float[np.ndarray, "r *spatial"]:
        slabs, rows, columns = self.cells
        if len(shape) == 2 and slabs > 1:
            raise DataError("regions.slabs: pictures have no slabs; set regions.slabs=1.")
        cells = (rows, columns) if len(shape) == 2 else self.cells
        number = np.zeros(shape, int)  # of the cell that each pixel is in
        for axis, (length, count) in enumerate(zip(shape, cells, strict=True)):
            along = [length if other == axis else 1 for other in range(len(shape))]
            number = number * count + _piece(length, count).reshape(along)
        which = np.arange(len(self.names)).reshape(-1, *[1] * len(shape))
        return (number == which).astype(np.float32)


def _piece(length: int, count: int) -> Int[np.ndarray, " length"]:
    """Which of `count` equal pieces each pixel of a side is in; the last takes the rest."""
    step = length // count
    return np.minimum(np.arange(length) // step, count - 1) if step else np.full(length, count - 1)


def _names(slabs: int, rows: int, columns: int) -> Sequence[str]:
    if (slabs, rows, columns) == (1, 1, 3):
        return THIRDS
    if (slabs, rows, columns) == (1, 2, 2):
        return QUADRANTS
    cells = [f"row {row} column {column}" for row in range(1, rows + 1) for column in range(1, columns + 1)]
    return cells if slabs == 1 else [f"slab {slab} {cell}" for slab in range(1, slabs + 1) for cell in cells]
