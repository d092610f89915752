"""How well masks fit whole cases: volumes, even when judged slice by slice, and patients of single pictures."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Case:
    """One case, so far.

    Attributes:
        name: of the volume, or of the patient.
        voxel_mm3: what a pixel stands for, mm³; None where unknown.
        label: the highest of its images', 0 = normal.
        images: number of them.
        hit, false, missed: pixels in mask and lesion, in the mask only, in the lesion only.
    """

    name: str
    voxel_mm3: float | None
    label: int = 0
    images: int = 0
    hit: int = 0
    false: int = 0
    missed: int = 0

    def add(self, label: int, counts: np.ndarray) -> None:
        """One more image, with its numbers of hit, false and missed pixels."""
        hit, false, missed = counts.tolist()
        self.label, self.images = max(self.label, label), self.images + 1
        self.hit, self.false, self.missed = self.hit + hit, self.false + false, self.missed + missed

    @property
    def iou(self) -> float | None:
        """None without a pixel in either."""
        union = self.hit + self.false + self.missed
        return self.hit / union if union else None

    def row(self) -> dict[str, str | int | float | None]:
        """The case as a line of a table; volumes of true and found lesion in mm³."""
        return {
            "case": self.name,
            "label": self.label,
            "images": self.images,
            "iou": self.iou,
            "dice": None if self.iou is None else 2 * self.iou / (1 + self.iou),
            "lesion_mm3": self._volume(self.hit + self.missed),
            "found_mm3": self._volume(self.hit + self.false),
        }

    def _volume(self, pixels: int) -> float | None:
        return None if self.voxel_mm3 is None else round(pixels * self.voxel_mm3, 3)
