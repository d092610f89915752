"""Severity grades 0 (normal), 1, 2, …: from the manifest's column `grade`, or from the area of each image's lesion."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from cfxai.data.export import Origin
from cfxai.data.geometry import Axis, spacing_in
from cfxai.data.scan import Masks
from cfxai.errors import ConfigError, DataError


def check_grade_areas(areas: Sequence[float]) -> None:
    """Refuse areas from which no grades could be told.

    Raises:
        ConfigError: they are not positive and rising.
    """
    if not len(areas) or areas[0] <= 0 or any(low >= high for low, high in pairwise(areas)):
        raise ConfigError(
            f"data.grade_areas: {list(areas)} must be positive and rising: the least areas of grades 2, 3, …"
        )


def with_grades(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The manifest `table` with its column `grade` (text) as whole numbers, and labels from grades where it has none.

    An empty cell is grade 0 in a row labelled normal. A column without any grade is dropped.

    Args:
        table: has the column `label` (int, -1 where the manifest does not say).
        path: of the manifest, for messages.

    Raises:
        DataError: a grade is no whole number from 0 on, is missing, or contradicts the label.
    """
    if "grade" not in table or not any(table["grade"]):
        return table.drop(columns="grade", errors="ignore")
    stated = table["grade"].where((table["grade"] != "") | (table["label"] != 0), "0")
    grades = pd.to_numeric(stated, errors="coerce")
    wrong = table.index[~(grades >= 0) | (grades % 1 != 0)]
    if len(wrong):
        cell = f"grade '{stated[wrong[0]]}'" if stated[wrong[0]] else "no grade while others do"
        raise DataError(f"{path}: line {wrong[0] + 2} has {cell}; grades are whole numbers from 0, which is normal.")
    labels = table["label"].where(table["label"] >= 0, (grades > 0).astype(int))
    odd = table.index[(labels > 0) != (grades > 0)]
    if len(odd):
        raise DataError(
            f"{path}: line {odd[0] + 2} has label {labels[odd[0]]} but grade {grades[odd[0]]:g}; grade 0 and label 0,"
            f" normal, must go together ({len(odd)} such rows)."
        )
    return table.assign(label=labels, grade=grades.astype(int))


def grades_by_area(
    masks: Masks, labels: Int[np.ndarray, " n"], origin: Origin, plane: str, areas: Sequence[float]
) -> Int[np.ndarray, " n"]:
    """The grade of each image by the area of its mask: 1 below `areas[0]`, 2 from there, and so on; 0 when normal.

    Args:
        masks: [n *spatial], the lesions.
        labels: [n], 0 = normal.
        origin: tells the size of a pixel.
        plane: in which volumes were cut.
        areas: rising; mm², mm³ of whole volumes, pixels of the file of pictures.
    """
    sizes = {source: _cell(geometry, plane) for source, geometry in origin.geometry.items()}
    measured = [mask.sum() * sizes[source] for mask, source in zip(masks, origin.sources, strict=True)]
    return np.where(labels > 0, 1 + np.digitize(np.round(measured, 3), areas), 0)


def _cell(geometry: dict[str, Any], plane: str) -> float:
    """The area (volume) of one pixel of an image whose geometry is that of `cfxai.data.prepare`."""
    steps = [Axis(**axis).step for axis in geometry["axes"]]
    if geometry["affine"] is None:
        return math.prod(steps)
    return math.prod(steps) * math.prod(spacing_in(np.asarray(geometry["affine"]), plane)[-len(steps) :])
