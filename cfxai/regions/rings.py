"""Concentric rings: whether a classifier looks at the middle of the image or at its border."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from cfxai.errors import ConfigError
from cfxai.regions.fixed import Fixed


class Rings(Fixed):
    """`count` rings around the centre that partition the image: "ring 1" is the innermost.

    The radius is 1 where it meets the middle of each side, so that rings of oblong images are ellipses (of volumes,
    shells). The corners, beyond radius 1, belong to the last ring.

    Args:
        count: of rings.
        equal: `width`: each is as wide as the next; `area`: each has as many pixels, but for pixels of equal radius.

    Raises:
        ConfigError: fewer than one ring, or another `equal`.
    """

    def __init__(self, *, count: int = 3, equal: Literal["width", "area"] = "width") -> None:
        if count < 1:
            raise ConfigError(f"regions.count: must be 1 or more, got {count}.")
        if equal not in ("width", "area"):
            raise ConfigError(f"regions.equal: choose width or area, not '{equal}'.")
        self.equal = equal
        self.names = [f"ring {number}" for number in range(1, count + 1)]

    def maps(self, shape: tuple[int, ...]) -> Float[np.ndarray, "r *spatial"]:
        sides = [(np.arange(length) + 0.5) / length * 2 - 1 for length in shape]
        radius = np.sqrt(sum(side**2 for side in np.meshgrid(*sides, indexing="ij")))
        radius = radius.round(9)  # pixels that mirror each other stay together
        inner = np.arange(1, len(self.names)) / len(self.names)
        edges = inner if self.equal == "width" else np.quantile(radius, inner)
        ring = np.searchsorted(edges, radius, side="right")
        which = np.arange(len(self.names)).reshape(-1, *[1] * len(shape))
        return (ring == which).astype(np.float32)
