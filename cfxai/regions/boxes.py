"""Boxes by name, in parts of the image's sides."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float

from cfxai.errors import ConfigError, DataError
from cfxai.regions.fixed import Fixed


class Boxes(Fixed):
    """Boxes that may overlap. A pixel that a box covers in part counts in part, so that its size does not matter.

    Args:
        boxes: name -> where the box starts on each axis, then where it ends, from 0 to 1: [top, left, bottom, right];
            of volumes, [first slice, top, left, last slice, bottom, right].

    Raises:
        ConfigError: no box, or one that is not inside the image or has no size.
        DataError: (when called) boxes of another number of axes than the image.
    """

    def __init__(self, *, boxes: Mapping[str, Sequence[float]]) -> None:
        if not boxes:
            raise ConfigError("regions.boxes: name at least one, such as heart: [0.3, 0.35, 0.8, 0.75].")
        for name, box in boxes.items():
            pairs = list(zip(box[: len(box) // 2], box[len(box) // 2 :], strict=False))
            if len(box) not in (4, 6) or not all(0 <= start < end <= 1 for start, end in pairs):
                raise ConfigError(
                    f"regions.boxes.{name}: {list(box)} is not [top, left, bottom, right] (of volumes, [first"
                    " slice, top, left, last slice, bottom, right]) with 0 <= start < end <= 1."
                )
        self.boxes = {name: np.reshape(np.asarray(box, float), (2, -1)) for name, box in boxes.items()}
        self.names = list(boxes)

    def maps(self, shape: tuple[int, ...]) -> Float[np.ndarray, "r *spatial"]:
        for name, box in self.boxes.items():
            if box.shape[1] != len(shape):
                raise DataError(
                    f"regions.boxes.{name}: has {box.size} numbers, but images of {len(shape)} axes need"
                    f" {2 * len(shape)}."
                )
        return np.stack([_filled(box, shape) for box in self.boxes.values()])


def _filled(box: Float[np.ndarray, "2 axes"], shape: tuple[int, ...]) -> Float[np.ndarray, "*spatial"]:
    """The part of each pixel that the box covers."""
    sides = []
    for start, end, length in zip(*box, shape, strict=True):
        pixel = np.arange(length)
        sides.append(np.clip(np.minimum(end * length, pixel + 1) - np.maximum(start * length, pixel), 0, 1))
    return reduce(np.multiply.outer, sides).astype(np.float32)
