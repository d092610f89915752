"""A data set of chest radiograph phantoms with exact masks, exact lesion-free counterparts and region maps."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from cfxai.data.chest.radiograph import Radiograph, take_radiograph
from cfxai.data.phantom_set import SPLITS, PhantomSet, falls_on
from cfxai.errors import ConfigError

SMALLEST = 32


class ChestPhantom(PhantomSet):
    """Frontal chest radiographs of random adults, one each, some of them with pneumonia.

    Written as PNG: images and healthy counterparts of 16 bit; masks 0 and 1; regions 1 right lung, 2 left lung,
    3 heart, 4 mediastinum, 5 diaphragm and abdomen, 6 outside the body, else 0. A patient without pneumonia is their
    own healthy counterpart. The manifest also has `severity` (0 none to 4), of each opacity `side` (right, left),
    `zone` (upper, middle, lower), `kind` (lobar, patchy, round) and `density` (the part of the air that is fluid),
    joined by "+", and `distractors` (breasts, granuloma, leads, marker), which do not depend on the label.

    Args:
        patients: number of radiographs.
        seed: of all that is random.
        size: pixels of each side; the anatomy is the same at any size.
        pneumonia_fraction: patients with one to three opacities (label 1).
        noise: relative standard deviation of the photons on a bare pixel; grows with what they pass through.
        splits: the share of patients of each split, by label.
    """

    name = "chest"
    folders = ("images", "masks", "healthy", "regions")
    columns = (
        *("image", "label", "mask", "healthy", "region", "patient", "split", "severity"),
        *("side", "zone", "kind", "density", "distractors", "sha256"),
    )

    def __init__(
        self,
        *,
        patients: int = 600,
        seed: int = 0,
        size: int = 128,
        pneumonia_fraction: float = 0.5,
        noise: float = 0.006,
        splits: Mapping[str, float] = SPLITS,
    ) -> None:
        super().__init__(patients, seed, splits)
        if size < SMALLEST:
            raise ConfigError(f"phantom.size is {size}; it must be at least {SMALLEST} pixels.")
        if noise < 0:
            raise ConfigError(f"phantom.noise is {noise}; it must not be negative.")
        if not 0 <= pneumonia_fraction <= 1:
            raise ConfigError(f"phantom.pneumonia_fraction is {pneumonia_fraction}; it must lie between 0 and 1.")
        self.size = size
        self.pneumonia_fraction = pneumonia_fraction
        self.noise = noise

    def radiograph(self, patient: int) -> Radiograph:
        """The radiograph of one patient."""
        return take_radiograph(self.size, (self.seed, patient), falls_on(patient, self.pneumonia_fraction), self.noise)

    def write_patient(self, patient: int, folder: Path) -> dict[str, str | int | float]:
        """Write image, mask and regions, and the healthy counterpart where there is pneumonia."""
        radiograph, name = self.radiograph(patient), f"patient_{patient:04d}.png"
        files = {"image": f"images/{name}", "mask": f"masks/{name}", "region": f"regions/{name}"}
        files["healthy"] = files["image"]
        if radiograph.opacities:
            files["healthy"] = f"healthy/{name}"
            _save(radiograph.healthy, folder / files["healthy"])
        _save(radiograph.image, folder / files["image"])
        _save(radiograph.mask, folder / files["mask"])
        _save(radiograph.regions, folder / files["region"])
        return {
            **files,
            "label": int(bool(radiograph.opacities)),
            "patient": f"patient_{patient:04d}",
            "severity": radiograph.severity,
            **{name: "+".join(getattr(o, name) for o in radiograph.opacities) for name in ("side", "zone", "kind")},
            "density": "+".join(f"{o.density:.2f}" for o in radiograph.opacities),
            "distractors": "+".join(radiograph.distractors),
            "sha256": hashlib.sha256((folder / files["image"]).read_bytes()).hexdigest(),
        }

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return vars(self)

    def sources(self) -> list[Path]:
        """The files of this package."""
        return sorted(Path(__file__).parent.glob("*.py"))


def _save(pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"], path: Path) -> None:
    Image.fromarray(pixels).save(path)
