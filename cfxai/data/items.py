"""What each item of a split is called, and which label it has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from cfxai.data.geometry import WHOLE
from cfxai.data.recipe import Recipe
from cfxai.errors import DataError


@dataclass(frozen=True)
class Items:
    """Ids, labels and grades (-1 unknown) of all items, and the ids of those whose label the mask contradicts."""

    ids: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    grades: list[int] = field(default_factory=list)
    disagree: list[str] = field(default_factory=list)


def name_and_label(table: pd.DataFrame, rows: Sequence[dict[str, Any]], recipe: Recipe) -> Items:
    """Items in the order of `rows`, which say what was made of each row of `table`; see `assemble`.

    A slice is labelled by its mask. A picture is labelled by the manifest, by its mask where the manifest
    gives none. A synthetic anomaly labels whatever it is drawn into. A slice without a lesion has grade 0 whatever
    the grade of its volume.

    Raises:
        DataError: a lesion of grade 0, or an image of a higher grade whose mask is empty.
    """
    items = Items()
    for row, made in zip(table.itertuples(), rows, strict=True):
        is_volume, lesion = made["geometry"]["affine"] is not None, made["lesion"]
        is_sliced = is_volume and recipe.plane not in WHOLE
        synthetic = recipe.anomaly is not None
        from_mask = lesion is not None and (is_volume or row.label < 0 or synthetic)
        for position, number in enumerate(made["slices"]):
            items.labels.append(int(lesion[position]) if from_mask else row.label)
            items.ids.append(f"{row.name}-{recipe.plane}-{number:03d}" if is_sliced else row.name)
            items.grades.append(_grade(items.ids[-1], getattr(row, "grade", -1), items.labels[-1], is_sliced))
            comparable = lesion is not None and not synthetic and (row.label == 0 or not from_mask)
            if comparable and lesion[position] != (row.label > 0):
                items.disagree.append(items.ids[-1])
    return items


def _grade(name: str, stated: int, label: int, is_slice: bool) -> int:
    if stated < 0:
        return stated
    if is_slice and label == 0:
        return 0
    if (stated > 0) != (label > 0):
        found = "a lesion in the mask" if label > 0 else "no lesion in the mask"
        raise DataError(f"{name}: the manifest says grade {stated}, but there is {found}; mend the grade or the mask.")
    return stated
