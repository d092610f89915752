"""Lumbar discs in MR: the SPIDER challenge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfxai.data.published.crop import centres_of_labels, refuse_other_grid, write_crop
from cfxai.data.published.published_set import PublishedSet, read_table, whole_number
from cfxai.data.readers import read_image

DISCS = 200
"""The label of disc k in the masks is this and k; discs count from 1, that above the sacrum."""


class Spider(PublishedSet):
    """A box around each graded disc of SPIDER (van der Graaf 2024, Sci Data 11:264), graded by Pfirrmann 1 to 5.

    `images/7_t2.mha` is patient 7, `masks/7_t2.mha` the label map of vertebrae (from 1), canal (100) and discs (201 …),
    which becomes the manifest's `region`. Grade 0 is Pfirrmann 1. The CSV files' columns are arguments, since we know
    them from others' code alone.

    Args:
        folder: with `images`, `masks` and the gradings.
        sequence: which image of a patient: t1, t2 or t2_SPACE. Patients without it are left out.
        extent: of the box, mm from right to left, front to back and head to foot. The first covers five slices.
        gradings: CSV with a row for each disc; discs without a grade are left out.
        columns: its columns of the patient, the disc (1 …) and the Pfirrmann grade (1 to 5).
        overview: CSV whose `overview_columns`, the image and its part of the challenge, give the split; null splits by
            patient.
        overview_columns: see `overview`.
    """

    name = "spider"
    download = "download SPIDER (Zenodo record 10159290) and unpack images, masks and the CSV files there"

    def __init__(
        self,
        folder: str | Path,
        sequence: str = "t2",
        extent: Sequence[float] = (16.6, 50.0, 50.0),
        gradings: str = "radiological_gradings.csv",
        columns: Sequence[str] = ("Patient", "IVD label", "Pfirrman grade"),
        overview: str | None = "overview.csv",
        overview_columns: Sequence[str] = ("new_file_name", "subset"),
    ) -> None:
        super().__init__(folder, ["images", "masks", gradings, *([overview] if overview else [])])
        self.sequence, self.extent = sequence, list(extent)
        self.gradings, self.columns = gradings, list(columns)
        self.overview, self.overview_columns = overview, list(overview_columns)

    def cases(self) -> list[tuple[str, dict[int, int], str]]:
        """Each patient who has the image, with the grade of each disc and the split ("" for none)."""
        path, (patient, disc, grade) = self.folder / self.gradings, self.columns
        splits = self._splits()
        grades: dict[str, dict[int, int]] = {}
        for row in read_table(path, self.columns, "data.source.columns").to_dict("records"):
            if row[grade]:
                number = str(whole_number(row[patient], path, patient))
                discs = grades.setdefault(number, {})
                discs[whole_number(row[disc], path, disc)] = whole_number(row[grade], path, grade) - 1
        return [(name, discs, splits.get(name, "")) for name, discs in grades.items() if self._image(name).exists()]

    def rows(self, case: tuple[str, dict[int, int], str], output: Path) -> list[dict[str, Any]]:
        """A row for each disc that the mask shows."""
        patient, grades, split = case
        image = read_image(self._image(patient))
        mask = self.folder / "masks" / self._image(patient).name
        labels = read_image(mask)
        refuse_other_grid(labels, image, mask)
        centres, rows = centres_of_labels(labels), []
        for disc in sorted(grades.keys() & {label - DISCS for label in centres}):
            name = f"{patient}-disc{disc}"
            row = {"image": f"{name}.nii.gz", "region": f"{name}_region.nii.gz", "patient": patient}
            for part, file in ((image, row["image"]), (labels, row["region"])):
                write_crop(part, centres[DISCS + disc], self.extent, output / file, fill=0.0)
            rows.append(row | {"grade": grades[disc]} | ({"split": split} if split else {}))
        return rows

    def _image(self, patient: str) -> Path:
        return self.folder / "images" / f"{patient}_{self.sequence}.mha"

    def _splits(self) -> dict[str, str]:
        """The part of the challenge that each patient belongs to."""
        if self.overview is None:
            return {}
        image, part = self.overview_columns
        table = read_table(self.folder / self.overview, self.overview_columns, "data.source.overview_columns")
        return {name.partition("_")[0]: split for name, split in zip(table[image], table[part], strict=True)}
