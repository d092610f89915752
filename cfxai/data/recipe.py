"""Everything that decides the pixels of a data set, in one hashable value."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from cfxai.data.anomaly import Anomaly
from cfxai.data.geometry import PLANES, WHOLE
from cfxai.data.intensity import Fingerprint, Intensity, Window
from cfxai.data.manifest import nearest
from cfxai.errors import ConfigError

VERSION = 1  # of the code that decides pixels; raise it when they change, and caches are made anew


@dataclass(frozen=True)
class Recipe:
    """Everything that decides pixels; see `cfxai.data.dataset.Data` for the meaning of each setting."""

    intensity: Intensity | Fingerprint
    size: int
    plane: str = "axial"
    field_of_view: float | None = None
    channels: int | None = None
    lesion_labels: tuple[int, ...] | None = None
    min_lesion_area: float = 0.0
    organ_labels: tuple[int, ...] | None = None
    min_organ_area: float = 0.0
    organ_masks: bool = False
    anomaly: Anomaly | None = None
    neighbours: int = 0
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
        self._check_organ()
        if self.anomaly is not None and self.lesion_labels is not None:
            raise ConfigError("data.anomaly makes the lesions itself; set data.lesion_labels=null, or no anomaly.")
        if self.anomaly is not None and self.plane in WHOLE:
            raise ConfigError("data.anomaly is drawn into slices; set data.plane=axial, coronal or sagittal.")
        if self.neighbours < 0 or (self.neighbours > 0 and (self.plane in WHOLE or self.channels == 3)):
            raise ConfigError(
                f"data.neighbours: {self.neighbours} must be 0, or a number of grey slices beside each;"
                " it needs data.channels=1 and data.plane=axial, coronal or sagittal."
            )

    def _check_organ(self) -> None:
        """`organ_labels` must have a use, and what needs them must have them."""
        if self._organ_uses and self.organ_labels is None:
            raise ConfigError(
                f"data.{self._organ_uses[0]} and data.organ_labels only work together;"
                " set data.organ_labels to the mask values of the organ."
            )
        if self.organ_labels is not None and not self._organ_uses and not isinstance(self.intensity, Fingerprint):
            raise ConfigError(
                "data.organ_labels and data.min_organ_area (or organ_masks, or anomaly) only work together;"
                " set both or neither."
            )

    @property
    def _organ_uses(self) -> list[str]:
        """Settings, other than a fingerprint, that look at the organ."""
        uses = {
            "min_organ_area": self.min_organ_area > 0,
            "organ_masks": self.organ_masks,
            "anomaly": self.anomaly is not None,
        }
        return [name for name, used in uses.items() if used]

    def with_window(self, window: Window) -> "Recipe":
        """This recipe with a fingerprint's window in its place; it then forgets an organ that nothing else needs."""
        return replace(self, intensity=window, organ_labels=self.organ_labels if self._organ_uses else None)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for cache keys and fingerprints."""
        return asdict(self) | {
            "intensity": _described(self.intensity),
            "anomaly": _described(self.anomaly),
            "version": VERSION,
        }


def _described(component: Any) -> list[str]:
    kind = type(component)
    return [f"{kind.__module__}.{kind.__qualname__}", repr(component)]
