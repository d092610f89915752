"""A data set of vertebra CT phantoms with graded fractures, exact masks and exact healthy counterparts."""

import hashlib
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cfxai.data.ct.canvas import Grid
from cfxai.data.ct.files import save_volume
from cfxai.data.phantom_set import SPLITS, PhantomSet, falls_on
from cfxai.data.spine.scan import VertebraScan, scan_vertebra
from cfxai.errors import ConfigError

FIELD = 72.0
"""mm, side of the volume."""
SMALLEST = 24


class SpinePhantom(PhantomSet):
    """CT around a lumbar vertebra, one of each patient, some of them fractured.

    Volumes are NIfTI with RAS axes, cubes of 72 mm, images int16 in HU. The manifest has Genant's `grade` (0 to 3),
    the `height_loss` it comes from (a fraction; vertebrae without a fracture lack up to 0.12) and the `kind` of the
    fracture (wedge, biconcave, crush). Masks are 1 where a fracture took bone away. A patient without a fracture is
    their own healthy counterpart.

    Args:
        patients: number of volumes.
        seed: of all that is random.
        size: voxels of each side; the anatomy is the same at any size.
        fracture_fraction: patients with a fracture (label 1), grades 1, 2 and 3 about equally often.
        noise: standard deviation, HU.
        splits: the share of patients of each split, by label.
    """

    name = "spine"
    folders = ("images", "masks", "healthy")
    columns = (
        *("image", "label", "mask", "healthy", "patient", "split"),
        *("grade", "height_loss", "kind", "sha256"),
    )

    def __init__(
        self,
        *,
        patients: int = 800,
        seed: int = 0,
        size: int = 32,
        fracture_fraction: float = 0.6,
        noise: float = 20.0,
        splits: Mapping[str, float] = SPLITS,
    ) -> None:
        super().__init__(patients, seed, splits)
        if size < SMALLEST:
            raise ConfigError(f"phantom.size is {size}; it must be at least {SMALLEST} voxels.")
        if noise < 0:
            raise ConfigError(f"phantom.noise is {noise} HU; it must not be negative.")
        if not 0 <= fracture_fraction <= 1:
            raise ConfigError(f"phantom.fracture_fraction is {fracture_fraction}; it must lie between 0 and 1.")
        self.grid = Grid(size, FIELD / size, size, FIELD / size)
        self.fracture_fraction = fracture_fraction
        self.noise = noise

    def scan(self, patient: int) -> VertebraScan:
        """The scan of one patient."""
        return scan_vertebra(self.grid, (self.seed, patient), falls_on(patient, self.fracture_fraction), self.noise)

    def write_patient(self, patient: int, folder: Path) -> dict[str, str | int | float]:
        """Write image and mask, and the healthy counterpart where there is a fracture."""
        scan, name = self.scan(patient), f"patient_{patient:04d}.nii.gz"
        images = {"image": f"images/{name}", "mask": f"masks/{name}", "healthy": f"images/{name}"}
        save_volume(scan.image, self.grid, folder / images["image"])
        save_volume(scan.mask, self.grid, folder / images["mask"])
        if scan.kind:
            images["healthy"] = f"healthy/{name}"
            save_volume(scan.healthy, self.grid, folder / images["healthy"])
        return {
            **images,
            "label": int(scan.grade > 0),
            "patient": f"patient_{patient:04d}",
            "grade": scan.grade,
            "height_loss": round(scan.height_loss, 4),
            "kind": scan.kind,
            "sha256": hashlib.sha256((folder / images["image"]).read_bytes()).hexdigest(),
        }

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return vars(self) | {"grid": astuple(self.grid)}

    def sources(self) -> list[Path]:
        """The files of this package, and what the spine is painted with."""
        here = Path(__file__).parent
        return [*sorted(here.glob("*.py")), *sorted((here.parent / "ct").glob("*.py"))]
