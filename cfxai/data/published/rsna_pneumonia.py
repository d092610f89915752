"""The RSNA Pneumonia Detection Challenge of 2018: DICOM radiographs, a label a patient, boxes around opacities.

Shih et al. 2019, doi:10.1148/ryai.2019180041. `stage_2_train_labels.csv` has a line for each box: a patient with three
boxes is there three times, and splitting lines, as is often done, puts one patient into several splits. Here each
patient is one row of the manifest, with all of their boxes as one mask. It is a weak one: boxes hold more than the
opacities in them.
"""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from cfxai.data.dicom import header
from cfxai.data.manifest import listing
from cfxai.data.whole_folder import whole_folder
from cfxai.errors import DataError
from cfxai.run.progress import Track

LABELS, CLASSES, IMAGES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv", "stage_2_train_images"
COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
NOT_NORMAL = "No Lung Opacity / Not Normal"
DOWNLOAD = "download the challenge's stage 2 from Kaggle (rsna-pneumonia-detection-challenge) and unpack it there"
Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width and height, pixels."""


@dataclass
class Patient:
    """One radiograph: is there an opacity, and where."""

    name: str
    abnormal: bool
    boxes: list[Box] = field(default_factory=list)


class RsnaPneumonia:
    """Writes the manifest of the challenge's training images, which are read from DICOM where they are.

    Args:
        folder: where the challenge is unpacked.
        not_normal: what becomes of patients with other findings and no opacity: they count as `normal`, as in the
            challenge's labels, or are `left_out`, so that normal means normal.
    """

    def __init__(self, folder: str | Path, *, not_normal: Literal["normal", "left_out"] = "normal") -> None:
        self.folder, self.not_normal = Path(folder).expanduser(), not_normal

    def manifest(self, cache: Path) -> Path:
        """`manifest.csv` and masks in a folder of `cache`, written once for the labels as they are.

        Raises:
            DataError: a file of the challenge is missing, or is not as the challenge has it.
        """
        labels = self._file(LABELS)
        digest = hashlib.sha256(labels.read_bytes() + Path(__file__).read_bytes())
        digest.update(json.dumps([str(self.folder.resolve()), self.not_normal]).encode())
        folder = cache / f"rsna-{digest.hexdigest()[:16]}"
        if not (folder / "manifest.csv").is_file():
            patients = patients_of(labels)
            if self.not_normal == "left_out":
                others = not_normal(self._file(CLASSES))
                patients = [patient for patient in patients if patient.name not in others]
            files = self._images(patients)
            with whole_folder(folder) as complete:
                self._write(patients, files, complete)
        return folder / "manifest.csv"

    def _write(self, patients: list[Patient], files: dict[str, Path], folder: Path) -> None:
        (folder / "masks").mkdir()
        with (folder / "manifest.csv").open("w", newline="") as file, Track("reading RSNA", len(patients)) as track:
            writer = csv.writer(file)
            writer.writerow(["image", "label", "mask", "patient", "boxes"])
            for patient in patients:
                mask = ""
                if patient.boxes:
                    mask = f"masks/{patient.name}.png"
                    head = header(files[patient.name])
                    Image.fromarray(boxed(patient.boxes, (head.Rows, head.Columns))).save(folder / mask)
                image = files[patient.name].resolve()
                writer.writerow([image, int(patient.abnormal), mask, patient.name, len(patient.boxes)])
                track.advance()

    def _file(self, name: str) -> Path:
        file = self.folder / name
        if not file.is_file():
            raise DataError(f"{file}: no such file; {DOWNLOAD}, or set data.source.folder.")
        return file

    def _images(self, patients: Iterable[Patient]) -> dict[str, Path]:
        """The DICOM file of each patient; some unpackers put the folder of images into one of the same name."""
        folder = next((f for f in (self.folder / IMAGES / IMAGES, self.folder / IMAGES) if f.is_dir()), None)
        if folder is None:
            raise DataError(f"{self.folder / IMAGES}: no such folder; {DOWNLOAD}, or set data.source.folder.")
        files = {patient.name: folder / f"{patient.name}.dcm" for patient in patients}
        if missing := [file.name for file in files.values() if not file.is_file()]:
            raise DataError(f"{folder}: images of {LABELS} are missing: {listing(missing)}; unpack all of them.")
        return files


def patients_of(labels: Path) -> list[Patient]:
    """Each patient once, in the file's order, with all of their boxes.

    Raises:
        DataError: columns are missing, or the lines of a patient contradict one another.
    """
    table = pd.read_csv(labels, dtype={"patientId": str})
    if lacking := [name for name in COLUMNS if name not in table]:
        raise DataError(f"{labels}: has no column {lacking[0]} (it has {', '.join(table.columns)}); {DOWNLOAD}.")
    found: dict[str, Patient] = {}
    for name, x, y, width, height, target in table[list(COLUMNS)].itertuples(index=False):
        abnormal = int(target) == 1
        patient = found.setdefault(name, Patient(name, abnormal))
        if patient.abnormal != abnormal:
            raise DataError(f"{labels}: patient {name} is in it with and without an opacity; restore the file.")
        if abnormal:
            box = (float(x), float(y), float(width), float(height))
            if not np.isfinite(box).all() or min(box[2:]) <= 0:
                raise DataError(f"{labels}: patient {name} has an opacity without a box; restore the file.")
            patient.boxes.append(box)
    return list(found.values())


def not_normal(classes: Path) -> set[str]:
    """Patients without an opacity who are not normal either."""
    table = pd.read_csv(classes, dtype=str)
    if lacking := [name for name in ("patientId", "class") if name not in table]:
        raise DataError(f"{classes}: has no column {lacking[0]} (it has {', '.join(table.columns)}); {DOWNLOAD}.")
    return set(table.loc[table["class"] == NOT_NORMAL, "patientId"])


def boxed(boxes: Iterable[Box], shape: tuple[int, int]) -> np.ndarray:
    """1 inside any of the boxes, as far as they lie in the image, else 0."""
    mask = np.zeros(shape, np.uint8)
    for x, y, width, height in boxes:
        top, left = max(0, round(y)), max(0, round(x))
        mask[top : max(0, round(y + height)), left : max(0, round(x + width))] = 1
    return mask
