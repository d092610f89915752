"""Synthetic lesions in real organs, so that the lesion-free image and the lesion's mask are known exactly."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from cfxai.data.scan import Masks
from cfxai.errors import ConfigError

Slice = Float[np.ndarray, "h w"]
Region = Bool[np.ndarray, "h w"]


@runtime_checkable
class Anomaly(Protocol):
    """Draws a lesion for one slice.

    `draw` gives what is added to the slice, in parts of the intensity range, and the lesion's mask; None for a slice
    that stays healthy. All its randomness comes from `rng`, which `insert` makes from `seed`.
    """

    seed: int

    def draw(
        self, organ: Region, spacing: tuple[float, ...], rng: np.random.Generator
    ) -> tuple[Slice, Region] | None: ...


@dataclass(frozen=True)
class GaussianAnomaly:
    """The bright Gaussian blob of COIN's synthetic experiment, around a point inside the organ.

    Half the blobs are stretched along the axes and half are turned, as in COIN. A blob may reach over the organ's
    edge, and where the organ is brighter than 1 - strength it saturates. Organs whose bounding box is not larger than
    the blob's square get none. Otherwise than in the published code,

    - a slice has one fixed anomaly or none; there, each access draws another, in validation too;
    - lengths are in mm; there, in pixels, 1.5 mm in TotalSegmentator;
    - the blob is computed where its pixels lie; there, a 20 x 20 picture is resized, bent and turned by interpolation.

    Attributes:
        probability: that a slice with enough organ gets one.
        size: side of the blob's square before it is scaled, mm (pixels where their size is unknown).
        sigma: of the Gaussian, as a part of half the side.
        edge: the mask is where the Gaussian, 1 at its centre, is above this.
        smallest: the scale is uniform between this and 1.
        stretch: largest relative change of the frequency along each axis.
        rotation: largest angle, degrees.
        strength: added at the centre, as a part of the intensity range.
        seed: of all that is random.
    """

    probability: float = 0.65
    size: float = 30.0
    sigma: float = 0.4
    edge: float = 0.25
    smallest: float = 0.75
    stretch: float = 0.2
    rotation: float = 90.0
    strength: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        parts = {"probability": self.probability, "edge": self.edge, "smallest": self.smallest, "stretch": self.stretch}
        for name, value in parts.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"data.anomaly.{name}: {value} must lie between 0 and 1.")
        if min(self.size, self.sigma, self.smallest) <= 0 or self.edge == 1 or self.stretch == 1:
            raise ConfigError(
                "data.anomaly: size, sigma and smallest must be positive, edge and stretch below 1, or no blob is left."
            )
        if self.seed < 0:
            raise ConfigError(f"data.anomaly.seed: {self.seed} must not be negative.")

    def draw(self, organ: Region, spacing: tuple[float, ...], rng: np.random.Generator) -> tuple[Slice, Region] | None:
        """A blob in one of the two largest parts of `organ`."""
        if rng.random() >= self.probability or not organ.any():
            return None
        centre = self._centre(organ, spacing, rng)
        if centre is None:
            return None
        blob = self._blob(organ.shape, centre, spacing, rng)
        return self.strength * blob, blob > self.edge

    def _centre(
        self, organ: Region, spacing: tuple[float, ...], rng: np.random.Generator
    ) -> Int[np.ndarray, "2"] | None:
        """A pixel inside the outline of a part, and inside its bounding box shrunk by a tenth."""
        labels, _ = ndimage.label(organ, np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        parts = [ndimage.binary_fill_holes(labels[box] == label) for label, box in enumerate(boxes, 1)]
        chosen = rng.choice(np.argsort([part.sum() for part in parts], kind="stable")[-2:])
        box, part = boxes[chosen], parts[chosen]
        if part.size * math.prod(spacing) <= self.size**2:
            return None
        inside = ndimage.binary_erosion(part)
        for axis, length in enumerate(part.shape):
            margin = int(0.05 * length)
            np.moveaxis(inside, axis, 0)[[*range(margin), *range(length - margin, length)]] = False
        candidates = np.argwhere(inside)
        if not len(candidates):
            return None
        return rng.choice(candidates) + [side.start for side in box]

    def _blob(
        self,
        shape: tuple[int, ...],
        centre: Int[np.ndarray, "2"],
        spacing: tuple[float, ...],
        rng: np.random.Generator,
    ) -> Slice:
        """exp(-r² / 2 sigma²) inside the square |u|, |v| <= 1, u and v the coordinates that the blob was moved from."""
        half = 19 / 20 * self.size / 2 * rng.uniform(self.smallest, 1)  # 20 pixels are 19 steps
        frequency = 1 + rng.uniform(-self.stretch, self.stretch, 2) * (rng.random() < 0.5)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation)) * (rng.random() < 0.5)
        y, x = ((np.arange(n) - c) * step for n, c, step in zip(shape, centre, spacing, strict=True))
        y = y[:, None]
        v = (math.cos(angle) * y - math.sin(angle) * x) * frequency[0] / half
        u = (math.sin(angle) * y + math.cos(angle) * x) * frequency[1] / half
        gaussian = np.exp(-(u**2 + v**2) / (2 * self.sigma**2))
        return (gaussian * (np.maximum(np.abs(u), np.abs(v)) <= 1)).astype(np.float32)


def insert(
    anomaly: Anomaly,
    images: Float[np.ndarray, "c n h w"],
    organs: Masks,
    *,
    case: str,
    spacing: tuple[float, ...],
    limits: tuple[float, float],
) -> tuple[Float[np.ndarray, "c n h w"], Masks]:
    """Slices with their anomalies, and where those are.

    Every slice depends on `anomaly.seed`, `case` and its number alone, so that it is the same in every split, order and
    run.

    Args:
        anomaly: draws them.
        images: all slices in the plane's order, native values within `limits`.
        organs: where anomalies may lie.
        case: SHA-256 of the image file.
        spacing: mm of rows and columns.
        limits: of the intensity range; what is brighter after the addition is cut off there.
    """
    low, high = limits
    images, lesions = images.copy(), np.zeros(organs.shape, dtype=bool)
    for number, organ in enumerate(organs):
        rng = np.random.default_rng([anomaly.seed, int(case, 16), number])
        drawn = anomaly.draw(organ, spacing, rng)
        if drawn is not None:
            added, lesions[number] = drawn
            images[:, number] = np.clip(images[:, number] + np.float32(high - low) * added, low, high)
    return images, lesions
