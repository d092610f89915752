"""Native values to [-1, 1] in float32: a window, percentiles of each image or of a training split, or a full range."""

import json
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
        _check_percentiles(self.lower, self.upper)

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]:
        """The percentiles over all pixels and channels."""
        low, high = np.percentile(scan.pixels, [self.lower, self.upper])
        if not low < high:
            raise DataError(f"{source}: is constant between its percentiles (at {low:g}); leave it out or widen them.")
        return float(low), float(high)


@dataclass(frozen=True)
class Fingerprint:
    """One window for all images: percentiles of the organ's voxels over the train split.

    It becomes a `Window` before any image is scaled; see `cfxai.data.foreground`. COIN's `ct` normalisation clips to
    the same percentiles, standardises by the foreground's mean and deviation, and rescales to [-1, 1]: mean and
    deviation cancel, so that this window is the same up to float32 rounding (2.4e-7). COIN's code measures the test
    scans too, which this does not.

    Attributes:
        lower: percentile that becomes -1.
        upper: percentile that becomes 1.
        file: a fingerprint as JSON, such as the one that another data set left in the cache, used instead of measuring.
    """

    lower: float = 0.5
    upper: float = 99.5
    file: str | None = None

    def __post_init__(self) -> None:
        _check_percentiles(self.lower, self.upper)

    def window(self, voxels: Float[np.ndarray, " n"]) -> Window:
        """The window of these native values.

        Raises:
            DataError: there are none, or they are constant.
        """
        low, high = np.percentile(voxels, [self.lower, self.upper]) if len(voxels) else (0.0, 0.0)
        if not low < high:
            raise DataError(
                "data.intensity: the masks of the train split show no organ, or one of constant value;"
                " check data.organ_labels, or set data.intensity to Window."
            )
        return Window(float(low), float(high))

    @staticmethod
    def read(path: Path) -> Window:
        """The window that a fingerprint's JSON file describes.

        Raises:
            ConfigError: the file is missing or not a fingerprint.
        """
        try:
            stored = json.loads(path.read_text())
            return Window(float(stored["lower"]), float(stored["upper"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"data.intensity.file: {path} is not a readable fingerprint with 'lower' and 'upper' ({error!r})."
            ) from error


@dataclass(frozen=True)
class FullRange:
    """All that the file format can hold: 0–255 or 0–65535 for pictures."""

    def limits(self, scan: Scan, source: Path | str) -> tuple[float, float]:
        """The format's range; refuses open scales such as HU."""
        if scan.value_range is None:
            raise DataError(f"{source}: its values have no full range; set data.intensity to Window or Percentile.")
        return scan.value_range


def _check_percentiles(lower: float, upper: float) -> None:
    if not 0 <= lower < upper <= 100:
        raise ConfigError(f"data.intensity: percentiles must be 0 <= lower < upper <= 100, not {lower} and {upper}.")


def to_unit(values: Float[np.ndarray, "..."], low: float, high: float) -> Float[np.ndarray, "..."]:
    """[low, high] linearly onto [-1, 1], clipped."""
    unit = (values - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return np.clip(unit, -1, 1).astype(np.float32, copy=False)
