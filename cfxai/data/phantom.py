"""A data set of abdominal CT phantoms with exact masks and exact lesion-free counterparts."""

import csv
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple
from math import floor
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float, Shaped

from cfxai.data.abdomen.canvas import Grid
from cfxai.data.abdomen.scan import Scan, scan_patient
from cfxai.errors import ConfigError
from cfxai.run.progress import Track

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
COLUMNS = ("image", "label", "mask", "healthy", "patient", "split", "severity", "sha256")

log = logging.getLogger("cfxai")


class Phantom:
    """Contrast-enhanced CT of random abdomens, kidneys in the middle, some of them with tumours.

    Patient k depends on `seed` and k alone, however many patients there are.

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
        splits: the share of patients of each split, by label.
    """

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
        splits: Mapping[str, float] = SPLITS,
    ) -> None:
        for name, value in {"patients": patients, "size": size, "slices": slices}.items():
            if value < 1:
                raise ConfigError(f"phantom.{name} is {value}; it must be at least 1.")
        for name, length in {"spacing": spacing, "slice_thickness": slice_thickness}.items():
            if length <= 0:
                raise ConfigError(f"phantom.{name} is {length} mm; it must be positive.")
        if seed < 0 or noise < 0:
            raise ConfigError(f"phantom.seed ({seed}) and phantom.noise ({noise}) must not be negative.")
        shares = {"tumour_fraction": tumour_fraction, "cyst_fraction": cyst_fraction, "shortcut": shortcut}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"phantom.{name} is {share}; it must lie between 0 and 1.")
        if min(splits.values(), default=0) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ConfigError(f"phantom.splits is {dict(splits)}; its shares must be positive and sum to 1.")
        self.patients = patients
        self.seed = seed
        self.grid = Grid(size, spacing, slices, slice_thickness)
        self.tumour_fraction = tumour_fraction
        self.cyst_fraction = cyst_fraction
        self.noise = noise
        self.shortcut = shortcut
        self.splits = {name: float(share) for name, share in splits.items()}

    def manifest(self, cache: Path) -> Path:
        """The manifest of this phantom under `cache`, written on the first call and found again ever after."""
        folder = cache / f"phantom-{self._key()}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            log.info("writing %d phantom patients to %s", self.patients, folder)
            try:
                with Track("writing the phantom", self.patients) as track:
                    self.write(folder, track.advance)
            except OSError:
                if not manifest.exists():  # else another process was faster with the same phantom
                    raise
        return manifest

    def write(self, folder: Path, progress: Callable[[], None] = lambda: None) -> Path:
        """Write images/, masks/, healthy/ and manifest.csv into `folder`, which appears only when it is complete.

        Volumes are NIfTI with RAS axes (the first index runs to the patient's right, the second to the front, the
        third to the head), images int16 in HU. A patient without a tumour is its own healthy counterpart.
        `progress` is called after each patient.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".phantom-") as scratch:
            complete = Path(scratch) / "complete"
            for name in ("images", "masks", "healthy"):
                (complete / name).mkdir(parents=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [pool.submit(self._write_patient, patient, complete) for patient in range(self.patients)]
                for job in as_completed(jobs):
                    job.result()
                    progress()
            rows = [job.result() for job in jobs]
            splits = assign_splits([bool(row["label"]) for row in rows], self.splits)
            with (complete / "manifest.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(row | {"split": split} for row, split in zip(rows, splits, strict=True))
            complete.rename(folder)
        return folder / "manifest.csv"

    def scan(self, patient: int) -> Scan:
        """The scan of one patient. Tumours fall on patients evenly, so that any few patients hold both labels."""
        before, after = (floor(n * self.tumour_fraction + 1e-9) for n in (patient, patient + 1))
        switches = (after > before, self.cyst_fraction, self.noise, self.shortcut)
        return scan_patient(self.grid, (self.seed, patient), *switches)

    def _write_patient(self, patient: int, folder: Path) -> dict[str, str | int]:
        scan, name = self.scan(patient), f"patient_{patient:04d}.nii.gz"
        images = {"image": f"images/{name}", "mask": f"masks/{name}", "healthy": f"images/{name}"}
        _save(scan.image, self.grid.affine, folder / images["image"])
        _save(scan.labels, self.grid.affine, folder / images["mask"])
        if scan.severity:
            images["healthy"] = f"healthy/{name}"
            _save(scan.healthy, self.grid.affine, folder / images["healthy"])
        return {
            **images,
            "label": int(scan.severity > 0),
            "patient": f"patient_{patient:04d}",
            "severity": scan.severity,
            "sha256": hashlib.sha256((folder / images["image"]).read_bytes()).hexdigest(),
        }

    def _key(self) -> str:
        """A digest of all settings and of the code that draws, so that a cached phantom is never a stale one."""
        digest = hashlib.sha256()
        digest.update(json.dumps(vars(self) | {"grid": astuple(self.grid)}, sort_keys=True).encode())
        for source in [Path(__file__), *sorted(Path(__file__).parent.glob("abdomen/*.py"))]:
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]


def assign_splits(labels: Sequence[bool], shares: Mapping[str, float]) -> list[str]:
    """A split for each patient, stratified by label: each goes where its label is furthest behind its share.

    More patients at the end leave the earlier ones where they are.
    """
    splits: list[str] = []
    seen: dict[bool, dict[str, int]] = {label: dict.fromkeys(shares, 0) for label in labels}
    for label in labels:
        counts = seen[label]
        behind = {name: share * (sum(counts.values()) + 1) - counts[name] for name, share in shares.items()}
        split = max(behind, key=behind.__getitem__)
        counts[split] += 1
        splits.append(split)
    return splits


def _save(volume: Shaped[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], path: Path) -> None:
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
