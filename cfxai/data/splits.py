"""Who trains and who judges: splits by patient, refused when a patient or a file would be on both sides."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from cfxai.data.manifest import listing, nearest
from cfxai.errors import DataError

SPLITS = ("train", "val", "test")
SYNONYMS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """The manifest with its `split` column resolved to train, val and test (`test` is always the judged one).

    Attributes:
        judged: what the manifest calls the judged split, "test" or "val".
        notes: sentences that say what was decided, for the run's report.
    """

    table: pd.DataFrame
    judged: str = "test"
    notes: list[str] = field(default_factory=list)


def split_by_patient(
    table: pd.DataFrame,
    *,
    seed: int,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    allow_no_patient: bool = False,
    allow_leakage: bool = False,
) -> Split:
    """Resolve the splits of a manifest (a table of `read_manifest`); independent of the order of its rows.

    Splits that the manifest names are kept. Without `test`, its `val` is judged and a new `val` (for thresholds and
    the choice of model) is carved out of `train`. Whatever else is missing is carved out of `train` too, by patient
    and stratified by grade or label. With `allow_leakage`, fewer than three patients serve as every split: a trial run.

    Raises:
        DataError: no patients, too few, a split name that is not one, or a leak between splits.
    """
    table = table.sort_values(["patient", "sha256", "split"], kind="stable").reset_index(drop=True)
    table["patient"], notes = _patients(table, allow_no_patient)
    table["split"] = _names(table["split"])
    given, judged = set(table["split"]), "test"
    if allow_leakage and given == {"train"} and table["patient"].nunique() < len(SPLITS):
        table = pd.concat([table.assign(split=name) for name in SPLITS], ignore_index=True)
        given = set(SPLITS)
    if "test" not in given and "val" in given:
        table["split"] = table["split"].replace("val", "test")
        judged, given = "val", given - {"val"} | {"test"}
        notes.append("The manifest has no test split: its validation split is judged.")
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if name not in given:
            chosen = _carve(table[table["split"] == "train"], fraction, seed)
            table.loc[chosen, "split"] = name
            patients = table.loc[chosen, "patient"].nunique()
            notes.append(f"The {name} split was carved out of train: {patients} patients, seed {seed}.")
    leak = _leak(table)
    if leak and not allow_leakage:
        raise DataError(f"{leak}; mend the split column, or set data.allow_leakage=true if that is meant.")
    return Split(table, judged, [*notes, *([f"Allowed by data.allow_leakage: {leak}."] if leak else [])])


def _patients(table: pd.DataFrame, allow_no_patient: bool) -> tuple[pd.Series, list[str]]:
    without = table["patient"] == ""
    if not without.any():
        return table["patient"], []
    if not allow_no_patient:
        hint = nearest("patient", table.columns.drop("patient"))
        raise DataError(
            f"{without.sum()} of {len(table)} rows of the manifest have no 'patient'{hint}, so images of one patient"
            " could train and judge; add it, or set data.allow_no_patient=true to count every image as a patient."
        )
    own = table["patient"].where(~without, table["sha256"].str[:12])
    return own, [f"{without.sum()} images have no patient and count as one patient each."]


def _names(column: pd.Series) -> pd.Series:
    if (column == "").all():
        return pd.Series("train", index=column.index)
    unknown = sorted(set(column) - {name for name in column if name.lower() in SYNONYMS})
    if unknown:
        shown = f"'{unknown[0]}'" if unknown[0] else "empty in some rows"
        hint = nearest(unknown[0], SYNONYMS)
        raise DataError(f"The manifest's split column is {shown}{hint}; use train, val and test in every row.")
    names = column.str.lower().map(SYNONYMS)
    if "train" not in set(names):
        raise DataError("The manifest's split column names no train row; mark the images to train on.")
    return names


def _carve(train: pd.DataFrame, fraction: float, seed: int) -> pd.Index:
    """Rows of about `fraction` of the patients of `train`, stratified by label, or by grade where there are enough."""
    patients, wanted = train["patient"].nunique(), round(1 / fraction)
    graded = "grade" in train and train["grade"].value_counts().max() >= wanted
    strata = train["grade" if graded else "label"]
    folds = min(wanted, patients, int(strata.value_counts().max()))
    if folds < 2:
        raise DataError(
            f"{patients} patient(s) to train on are too few to split by patient;"
            " add patients or a 'split' column to the manifest, or set data.allow_leakage=true for a trial run"
            " that trains and judges on the same images."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        _, chosen = next(splitter.split(np.zeros(len(train)), strata, train["patient"]))
    return train.index[chosen]


def _leak(table: pd.DataFrame) -> str:
    """One sentence about patients or files that are in several splits; empty when there is none."""
    for column, what in (("patient", "patients"), ("sha256", "identical images")):
        splits = table.groupby(column)["split"].nunique()
        shared = splits.index[splits > 1]
        if len(shared):
            rows = table[table[column].isin(shared)].drop_duplicates(column)
            names = rows["patient"] if column == "patient" else rows["image"].map(str)
            return f"{len(shared)} {what} are in more than one split: {listing(names)}"
    return ""
