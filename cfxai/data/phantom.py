"""A data set of abdominal CT phantoms with exact masks and exact lesion-free counterparts."""

import hashlib
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cfxai.data.abdomen.scan import Scan, scan_patient
from cfxai.data.ct.canvas import Grid
from cfxai.data.ct.files import save_volume
from cfxai.data.phantom_set import SPLITS, PhantomSet, falls_on
from cfxai.errors import ConfigError


class Phantom(PhantomSet):
    """Contrast-enhanced CT of random abdomens, kidneys in the middle, some of them with tumours.

    Volumes are NIfTI with RAS axes (the first index runs to the patient's right, the second to the front, the third to
    the head), images int16 in HU. A patient without a tumour is its own healthy counterpart.

    With `kidney`, volumes around one kidney of each patient: the one with the worst tumour, or either where there is
    none, its centre in the middle wherever the lesion lies. Label, severity and grade are then of what the volume
    shows, and the manifest has the column `side` (left or right, the patient's).

    Args:
        patients: number of volumes.
        seed: of all that is random.
        size: voxels along each side of a slice.
        spacing: voxel size in the slice, mm.
        slices: number of axial slices.
        slice_thickness: mm.
        tumour_fraction: patients with one or two kidney tumours (label 1).
        cyst_fraction: patients with benign cysts, with or without a tumour.
        noise: standard deviation, HU.
        shortcut: probability that a slice with a tumour carries a burned-in marker (mask label 4); others never do.
        grades: number of severity grades. A patient with a tumour then has one, whose size and contrast grow with its
            grade, 1 to `grades` - 1, and the manifest has the column `grade`. None draws tumours without such an order.
        kidney: side, in the slice, of the square around one kidney, mm, rounded to whole voxels and moved inwards where
            it would leave the slice. None writes the whole abdomen.
        splits: the share of patients of each split, by label.
    """

    name = "phantom"
    folders = ("images", "masks", "healthy")
    columns = ("image", "label", "mask", "healthy", "patient", "split", "severity", "grade", "side", "sha256")

    def __init__(
        self,
        *,
        patients: int = 160,
        seed: int = 0,
        size: int = 128,
        spacing: float = 3.0,
        slices: int = 24,
        slice_thickness: float = 5.0,
        tumour_fraction: float = 0.65,
        cyst_fraction: float = 0.4,
        noise: float = 12.0,
        shortcut: float = 0.0,
        grades: int | None = None,
        kidney: float | None = None,
        splits: Mapping[str, float] = SPLITS,
    ) -> None:
        super().__init__(patients, seed, splits)
        for name, value in {"size": size, "slices": slices}.items():
            if value < 1:
                raise ConfigError(f"phantom.{name} is {value}; it must be at least 1.")
        for name, length in {"spacing": spacing, "slice_thickness": slice_thickness}.items():
            if length <= 0:
                raise ConfigError(f"phantom.{name} is {length} mm; it must be positive.")
        if noise < 0:
            raise ConfigError(f"phantom.noise is {noise} HU; it must not be negative.")
        shares = {"tumour_fraction": tumour_fraction, "cyst_fraction": cyst_fraction, "shortcut": shortcut}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"phantom.{name} is {share}; it must lie between 0 and 1.")
        if grades is not None and grades < 2:
            raise ConfigError(f"phantom.grades is {grades}; it must be at least 2 (normal and abnormal), or null.")
        if kidney is not None:
            if shortcut > 0:
                raise ConfigError(
                    "phantom.kidney and phantom.shortcut exclude each other: the marker is not in the cut."
                )
            if not 1 <= round(kidney / spacing) <= size:
                raise ConfigError(
                    f"phantom.kidney is {kidney} mm; it must be at least a voxel ({spacing} mm) and at most the slice"
                    f" ({size * spacing} mm)."
                )
        self.grid = Grid(size, spacing, slices, slice_thickness)
        self.tumour_fraction = tumour_fraction
        self.cyst_fraction = cyst_fraction
        self.noise = noise
        self.shortcut = shortcut
        self.grades = grades
        self.kidney = kidney

    def scan(self, patient: int) -> Scan:
        """The scan of one patient."""
        cut = None if self.kidney is None else round(self.kidney / self.grid.spacing)
        switches = (self.cyst_fraction, self.noise, self.shortcut, self.grades, cut)
        return scan_patient(self.grid, (self.seed, patient), falls_on(patient, self.tumour_fraction), *switches)

    def write_patient(self, patient: int, folder: Path) -> dict[str, str | int | float]:
        """Write image and mask, and the healthy counterpart where there is a tumour."""
        scan, name = self.scan(patient), f"patient_{patient:04d}.nii.gz"
        images = {"image": f"images/{name}", "mask": f"masks/{name}", "healthy": f"images/{name}"}
        save_volume(scan.image, scan.grid, folder / images["image"])
        save_volume(scan.labels, scan.grid, folder / images["mask"])
        if scan.severity:
            images["healthy"] = f"healthy/{name}"
            save_volume(scan.healthy, scan.grid, folder / images["healthy"])
        return {
            **images,
            "label": int(scan.severity > 0),
            "patient": f"patient_{patient:04d}",
            "severity": scan.severity,
            **({} if self.grades is None else {"grade": scan.severity}),
            **({} if scan.kidney is None else {"side": "right" if scan.kidney.side > 0 else "left"}),
            "sha256": hashlib.sha256((folder / images["image"]).read_bytes()).hexdigest(),
        }

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return vars(self) | {"grid": astuple(self.grid)}

    def sources(self) -> list[Path]:
        """This file, the abdomen and what it is painted with."""
        here = Path(__file__).parent
        return [Path(__file__), *sorted(here.glob("abdomen/*.py")), *sorted(here.glob("ct/*.py"))]
