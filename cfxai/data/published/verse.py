"""Vertebrae in CT: the VerSe challenges."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfxai.data.published.crop import centres_of_labels, refuse_other_grid, write_crop
from cfxai.data.published.published_set import PublishedSet, read_table, whole_number
from cfxai.data.readers import read_image
from cfxai.errors import DataError

log = logging.getLogger("cfxai")
IMAGE, MASK = "_ct.nii.gz", "_seg-vert_msk.nii.gz"
VERTEBRAE = [*(f"C{k}" for k in range(1, 8)), *(f"T{k}" for k in range(1, 13)), *(f"L{k}" for k in range(1, 7))]
"""Of labels 1 to 25."""
AIR = -1024.0


class Verse(PublishedSet):
    """A box around each graded vertebra of VerSe 2019 and 2020 (Sekuboyina 2021, Med Image Anal 73:102166).

    `sub-verse004_ct.nii.gz` and `sub-verse004_seg-vert_msk.nii.gz` may lie anywhere in the folder (`rawdata` and
    `derivatives` of the three parts); a name between the subject and `_ct` tells a subject's scans apart. The label map
    becomes the manifest's `region`. VerSe's files have no grades of fractures: Genant's (0 to 3) come from a CSV, to be
    made from the metadata that are published apart. We know the layout from others' code alone.

    Args:
        folder: with the parts and the grades.
        extent: of the box around a vertebra's centre of mass, mm from right to left, front to back and head to foot.
        grades: CSV with a row for each vertebra; vertebrae without one are left out.
        columns: its columns of the subject (`verse004` or `sub-verse004`), the vertebra (`L1` or its label, 20) and
            Genant's grade.
    """

    name = "verse"
    download = (
        "download VerSe (OSF projects nqjyw and t98fz), unpack it there, and put beside it grades.csv with the columns"
        " subject,vertebra,grade"
    )

    def __init__(
        self,
        folder: str | Path,
        extent: Sequence[float] = (80.0, 80.0, 80.0),
        grades: str = "grades.csv",
        columns: Sequence[str] = ("subject", "vertebra", "grade"),
    ) -> None:
        super().__init__(folder, [grades])
        self.extent, self.grades, self.columns = list(extent), grades, list(columns)

    def cases(self) -> list[tuple[str, Path, Path, dict[int, int]]]:
        """Each scan of a graded subject: the subject, image, label map and the grade of each label."""
        grades = self._grades()
        images = {path.name.removesuffix(IMAGE): path for path in sorted(self.folder.rglob(f"sub-*{IMAGE}"))}
        masks = {path.name.removesuffix(MASK): path for path in sorted(self.folder.rglob(f"sub-*{MASK}"))}
        cases = []
        for name, image in images.items():
            subject = _subject(name)
            if subject in grades:
                if name not in masks:
                    raise DataError(f"{image}: has no label map {name}{MASK} in {self.folder}; unpack derivatives too.")
                cases.append((subject, image, masks[name], grades[subject]))
        unseen = grades.keys() - {case[0] for case in cases}
        if unseen:
            log.warning("%s: %d graded subjects have no scan in %s", self.grades, len(unseen), self.folder)
        return cases

    def rows(self, case: tuple[str, Path, Path, dict[int, int]], output: Path) -> list[dict[str, Any]]:
        """A row for each graded vertebra that the label map shows."""
        subject, path, mask, grades = case
        image, labels = read_image(path), read_image(mask)
        refuse_other_grid(labels, image, mask)
        centres, rows = centres_of_labels(labels), []
        for label in sorted(grades.keys() & centres.keys()):
            name = f"{path.name.removesuffix(IMAGE)}-{VERTEBRAE[label - 1]}"
            row = {"image": f"{name}.nii.gz", "region": f"{name}_region.nii.gz", "patient": subject}
            write_crop(image, centres[label], self.extent, output / row["image"], fill=AIR)
            write_crop(labels, centres[label], self.extent, output / row["region"], fill=0.0)
            rows.append(row | {"grade": grades[label]})
        return rows

    def _grades(self) -> dict[str, dict[int, int]]:
        path, (subject, vertebra, grade) = self.folder / self.grades, self.columns
        found: dict[str, dict[int, int]] = {}
        for row in read_table(path, self.columns, "data.source.columns").to_dict("records"):
            if row[grade]:
                labels = found.setdefault(_subject(row[subject]), {})
                labels[_label(row[vertebra], path, vertebra)] = whole_number(row[grade], path, grade)
        return found


def _subject(name: str) -> str:
    """`verse004` of `sub-verse004_dir-ax`."""
    return name.removeprefix("sub-").partition("_")[0]


def _label(cell: str, path: Path, column: str) -> int:
    if cell.upper() in VERTEBRAE:
        return VERTEBRAE.index(cell.upper()) + 1
    label = whole_number(cell, path, column)
    if not 1 <= label <= len(VERTEBRAE):
        raise DataError(f"{path}: '{cell}' in column '{column}' is no vertebra; write C1 to L6, or its label 1 to 25.")
    return label
