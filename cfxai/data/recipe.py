"""Everything that decides the pixels of a data set, in one hashable value."""

from dataclasses import asdict, dataclass
from typing import Any

from cfxai.data.geometry import PLANES
from cfxai.data.intensity import Intensity
from cfxai.data.manifest import nearest
from cfxai.errors import ConfigError

VERSION = 1  # of the code that decides pixels; raise it when they change, and caches are made anew


@dataclass(frozen=True)
class Recipe:
    """Everything that decides pixels; see `cfxai.data.dataset.Data` for the meaning of each setting."""

    intensity: Intensity
    size: int
    plane: str = "axial"
    field_of_view: float | None = None
    channels: int | None = None
    lesion_labels: tuple[int, ...] | None = None
    min_lesion_area: float = 0.0
    organ_labels: tuple[int, ...] | None = None
    min_organ_area: float = 0.0
    slice_step: int = 1
    slice_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise ConfigError(
                f"data.plane: '{self.plane}' is not one of {', '.join(PLANES)}{nearest(self.plane, PLANES)}."
            )
        if self.size < 1 or self.slice_step < 1:
            raise ConfigError(f"data.size ({self.size}) and data.slice_step ({self.slice_step}) must be at least 1.")
        if self.field_of_view is not None and self.field_of_view <= 0:
            raise ConfigError(
                f"data.field_of_view: {self.field_of_view} mm must be positive, or null for the whole slice."
            )
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"data.channels: {self.channels} must be 1 (grey), 3 (colour) or null (as in the files).")
        if not 0 <= self.slice_range[0] < self.slice_range[1] <= 1:
            raise ConfigError(
                f"data.slice_range: {list(self.slice_range)} must be two rising positions between 0 and 1."
            )
        if min(self.min_lesion_area, self.min_organ_area) < 0:
            raise ConfigError("data.min_lesion_area and data.min_organ_area must not be negative.")
        if (self.min_organ_area > 0) != (self.organ_labels is not None):
            raise ConfigError("data.min_organ_area and data.organ_labels only work together; set both or neither.")

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for cache keys and fingerprints."""
        kind = type(self.intensity)
        return asdict(self) | {
            "intensity": [f"{kind.__module__}.{kind.__qualname__}", repr(self.intensity)],
            "version": VERSION,
        }
