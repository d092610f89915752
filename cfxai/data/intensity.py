"""Native values to [-1, 1] in float32: a window, percentiles, or the whole range of the file format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from cfxai.data.scan import Scan
from cfxai.errors import ConfigError, DataError


@runtime_checkable
class Intensity(Protocol):
    """Chooses the two native values that become -1 and 1."""

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Window:
    """A fixed window, in HU for CT."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ConfigError(f"data.intensity: lower ({self.lower}) must be below upper ({self.upper}).")

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]:
        """The window, whatever the image."""
        return self.lower, self.upper


@dataclass(frozen=True)
class Percentile:
    """Two percentiles of each volume or picture, for scales without units (MR)."""

    lower: float = 0.5
    upper: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.lower < self.upper <= 100:
            raise ConfigError(
                f"data.intensity: percentiles must be 0 <= lower < upper <= 100, not {self.lower} and {self.upper}."
            )

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]:
        """The percentiles over all pixels and channels."""
        low, high = np.percentile(scan.pixels, [self.lower, self.upper])
        if not low < high:
            raise DataError(f"{source}: is constant between its percentiles (at {low:g}); leave it out or widen them.")
        return float(low), float(high)


@dataclass(frozen=True)
class FullRange:
    """All that the file format can hold: 0–255 or 0–65535 for pictures."""

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]:
        """The format's range; refuses open scales such as HU."""
        if scan.value_range is None:
            raise DataError(f"{source}: its values have no full range; set data.intensity to Window or Percentile.")
        return scan.value_range


def to_unit(values: Float[np.ndarray, "..."], low: float, high: float) -> Float[np.ndarray, "..."]:
    """[low, high] linearly onto [-1, 1], clipped."""
    unit = (values - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return np.clip(unit, -1, 1).astype(np.float32, copy=False)
