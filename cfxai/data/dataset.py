"""What the rest of the framework sees of data: splits of images in [-1, 1] with labels, masks and patients."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from cfxai.data.anomaly import Anomaly
from cfxai.data.arrays import Dataset
from cfxai.data.assemble import Assembled, assemble
from cfxai.data.cache import Cache
from cfxai.data.export import Origin, export_masks
from cfxai.data.foreground import Measured, measure
from cfxai.data.grades import check_grade_areas, grades_by_area
from cfxai.data.intensity import Fingerprint, Intensity
from cfxai.data.items import name_and_label
from cfxai.data.manifest import COLUMNS, ROLES, listing, read_manifest, refuse_gaps, sum_columns
from cfxai.data.naming import unique_names
from cfxai.data.recipe import Recipe
from cfxai.data.scan import Masks
from cfxai.data.splits import SPLITS, Split, split_by_patient
from cfxai.errors import DataError
from cfxai.protocols import Mask

__all__ = ["Data", "Dataset"]


@runtime_checkable
class Source(Protocol):
    """Something that writes images and their manifest when asked: a phantom, or the reader of a published data set."""

    def manifest(self, cache: Path) -> Path: ...


class Data:
    """A manifest, or a phantom that writes one, as train, val and test splits; nothing is read before it is needed.

    Args:
        manifest: CSV of images, see `cfxai.data.manifest`; wins over `phantom` and `source`.
        phantom: draws images and writes their manifest into the cache.
        source: the reader of a published data set, see `cfxai.data.published`; writes a manifest into the cache too.
        intensity: native values to [-1, 1]; a `Fingerprint` is measured on the train split first.
        size: pixels of each side of an image.
        plane: axial, coronal or sagittal slices of volumes; or `volume` to keep them whole, `sagittal_volume` to keep
            them whole and look at them in sagittal slices.
        field_of_view: mm of each side, centred; null for the whole slice whatever its aspect.
        channels: 1 or 3 to make all images grey or colour; null for what the files have. See also `neighbours`.
        lesion_labels: mask values that are lesion; null for all but 0.
        min_lesion_area: mm² (pixels when unknown); slices with a smaller lesion are left out.
        grade_areas: least lesion areas of grades 2, 3, ..., mm² (mm³ of whole volumes, pixels of pictures): every image
            is graded by its own mask. Null for the grades of the manifest's column `grade`, if it has one.
        organ_labels: mask values that are organ, for the three settings below and a `Fingerprint`.
        min_organ_area: mm² (pixels when unknown); slices with less organ are left out.
        organ_masks: whether batches have the organ's mask, `organ`.
        anomaly: draws synthetic lesions into the organ. They alone then make labels and masks; the image without them
            is `healthy`.
        neighbours: slices on each side that an image shows as further channels, 2 * neighbours + 1 in all, from the
            feet, the back or the left; needs grey volumes. Label, mask and anomaly are the middle slice's alone.
        slice_step: keep every n-th slice.
        slice_range: keep slices between two relative positions, from the feet (axial), the back or the left.
        classes: names of labels 0, 1, ...; the first is normal.
        val_fraction: share of patients for splits that the manifest does not name.
        test_fraction: the same for the judged split.
        allow_no_patient: count an image without a patient as a patient of its own.
        allow_leakage: accept patients or files that are in several splits.
        seed: of the splits.
        cache: folder of prepared data.
    """

    def __init__(
        self,
        manifest: str | Path | None = None,
        *,
        intensity: Intensity | Fingerprint,
        size: int,
        phantom: Source | None = None,
        source: Source | None = None,
        plane: str = "axial",
        field_of_view: float | None = None,
        channels: int | None = None,
        lesion_labels: Sequence[int] | None = None,
        min_lesion_area: float = 0.0,
        grade_areas: Sequence[float] | None = None,
        organ_labels: Sequence[int] | None = None,
        min_organ_area: float = 0.0,
        organ_masks: bool = False,
        anomaly: Anomaly | None = None,
        neighbours: int = 0,
        slice_step: int = 1,
        slice_range: Sequence[float] = (0.0, 1.0),
        classes: Sequence[str] = ("normal", "abnormal"),
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        allow_no_patient: bool = False,
        allow_leakage: bool = False,
        seed: int = 0,
        cache: str | Path = ".cfxai",
    ) -> None:
        self.classes = list(classes)
        self.cache = Path(cache)
        self._asked = Recipe(
            intensity=intensity,
            size=size,
            plane=plane,
            field_of_view=field_of_view,
            channels=channels,
            lesion_labels=None if lesion_labels is None else tuple(lesion_labels),
            min_lesion_area=min_lesion_area,
            organ_labels=None if organ_labels is None else tuple(organ_labels),
            min_organ_area=min_organ_area,
            organ_masks=organ_masks,
            anomaly=anomaly,
            neighbours=neighbours,
            slice_step=slice_step,
            slice_range=(float(slice_range[0]), float(slice_range[-1])),
        )
        self._split_table = partial(
            split_by_patient,
            seed=seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            allow_no_patient=allow_no_patient,
            allow_leakage=allow_leakage,
        )
        if grade_areas is not None:
            check_grade_areas(grade_areas)
        self._manifest, self._grade_areas = manifest, grade_areas
        self._writers = {"phantom": phantom, "published": source}
        self._datasets: dict[str, Dataset] = {}
        self._notes: list[str] = []

    @cached_property
    def manifest(self) -> Path:
        """The CSV; a phantom or source writes it now if need be."""
        if self._manifest is not None:
            return Path(self._manifest).expanduser()
        for kind, writer in self._writers.items():
            if writer is not None:
                return writer.manifest(self.cache / kind)
        raise DataError(
            "data.manifest is not set: run `python tools/make_manifest.py FOLDER_OR_NPZ -o manifest.csv`,"
            " then add data.manifest=manifest.csv."
        )

    @property
    def judged(self) -> str:
        """What the manifest calls the split that is judged (always `split("test")` here): "test" or "val"."""
        return self._split.judged

    @property
    def notes(self) -> list[str]:
        """Sentences on splits and intensities that were decided, and on what was left out of splits prepared so far."""
        measured = [self._measured.note] if self._measured else []
        return [*self._split.notes, *measured, *self._notes]

    @property
    def recipe(self) -> Recipe:
        """Everything that decides pixels; a fingerprint is measured for it."""
        return self._asked.with_window(self._measured.window) if self._measured else self._asked

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.split("train").images.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over file hashes, labels, grades, patients, splits and the settings that decide pixels."""
        table = self._split.table
        graded = ["grade"] if "grade" in table else []
        columns = [*sum_columns(table), "label", "patient", "split", *graded]
        rows = sorted(table[columns].astype(str).to_numpy().tolist())
        settings = [rows, self.classes, self.recipe.describe(), *(self._grade_areas or [])]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def manifest_lock(self) -> pd.DataFrame:
        """The manifest as it was used: absolute paths, SHA-256 sums, and the split of every row."""
        table = self._split.table.drop(columns="name")
        for column in ROLES:
            table[column] = table[column].map(
                lambda file: "" if file is None else str(replace(file, path=file.path.absolute()))
            )
        return table

    def split(self, name: str) -> Dataset:
        """The `train`, `val` or `test` split (`test` is the judged one); prepared at its first use."""
        if name not in SPLITS:
            raise DataError(f"There is no split '{name}'; splits are {', '.join(SPLITS)}.")
        if name not in self._datasets:
            self._datasets[name] = self._prepare(name)
        return self._datasets[name]

    def export_masks(self, split: str, masks: Mask | Masks, directory: Path) -> list[Path]:
        """Masks of the items of `split`, in order, as files at the original resolution and geometry; see `export`."""
        table = self._split.table
        files = dict(zip(table["name"], (image.path for image in table["image"]), strict=True))
        return export_masks(np.asarray(masks), self.split(split).origin, files, self._asked.plane, directory)

    @cached_property
    def _measured(self) -> Measured | None:
        fingerprint = self._asked.intensity
        if not isinstance(fingerprint, Fingerprint):
            return None
        table = self._split.table
        return measure(fingerprint, table[table["split"] == "train"], self._asked, self.cache / "fingerprints")

    @cached_property
    def _split(self) -> Split:
        table = read_manifest(self.manifest, self.classes)
        if self._grade_areas is not None:
            if table["mask"].isna().all():
                raise DataError(f"{self.manifest}: has no masks, which data.grade_areas needs; set it to null.")
            table = table.drop(columns="grade", errors="ignore")
        split = self._split_table(table)
        refuse_gaps(split.table, self.manifest)
        if self._asked.anomaly is not None and split.table["healthy"].notna().any():
            raise DataError(
                f"{self.manifest}: has healthy images, but data.anomaly makes its own; remove the column healthy,"
                " or set data.anomaly=null."
            )
        split.table["name"] = unique_names(split.table["image"])
        return split

    def _prepare(self, name: str) -> Dataset:
        whole = self._split.table
        table = whole[whole["split"] == name].sort_values("name").reset_index(drop=True)
        has = {
            "images": True,
            "masks": whole["mask"].notna().any(),
            "organs": self._asked.organ_masks,
            "healthy": whole["healthy"].notna().any() or self._asked.anomaly is not None,
            "regions": whole["region"].notna().any(),
        }
        arrays = [kind for kind, there in has.items() if there]
        assembled = assemble(name, table, self.recipe, arrays, Cache(self.cache / "data"))
        if assembled.dropped:
            self._notes.append(f"Left out of {name}: {assembled.dropped}.")
        dataset = self._dataset(table, assembled)
        channels = {other.images.shape[1] for other in self._datasets.values()} | {dataset.images.shape[1]}
        if len(channels) > 1:
            raise DataError(f"The splits mix grey and colour images ({self.manifest}); set data.channels=1 or 3.")
        return dataset

    def _dataset(self, table: pd.DataFrame, assembled: Assembled) -> Dataset:
        items = name_and_label(table, assembled.rows, self._asked)
        if items.disagree:
            self._notes.append(
                f"The manifest's label and the mask disagree about a lesion in {listing(items.disagree)}."
            )
        masks = assembled.arrays.get("masks")
        if masks is not None:
            small = [
                id for id, label, mask in zip(items.ids, items.labels, masks, strict=True) if label and not mask.any()
            ]
            if small:
                self._notes.append(
                    f"The lesion is smaller than half a pixel or missing in the mask of {listing(small)}."
                )
        counts = [len(made["slices"]) for made in assembled.rows]
        labels, grades = np.asarray(items.labels, dtype=np.int64), np.asarray(items.grades, dtype=np.int64)
        origin = Origin(
            sources=table["name"].repeat(counts).tolist(),
            slices=[number for made in assembled.rows for number in made["slices"]],
            geometry={name: made["geometry"] for name, made in zip(table["name"], assembled.rows, strict=True)},
        )
        if self._grade_areas is not None and masks is not None:
            grades = grades_by_area(masks, labels, origin, self._asked.plane, self._grade_areas)
        others = table.columns.difference([*COLUMNS, "name"])
        return Dataset(
            images=assembled.arrays["images"],
            labels=labels,
            masks=masks,
            healthy=assembled.arrays.get("healthy"),
            organs=assembled.arrays.get("organs"),
            regions=assembled.arrays.get("regions"),
            channel=self.recipe.neighbours or None,
            ids=items.ids,
            groups=table["patient"].repeat(counts).tolist(),
            origin=origin,
            grades=None if (grades < 0).any() else grades,
            columns={column: table[column].repeat(counts).tolist() for column in others},
        )
