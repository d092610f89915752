"""The manifest: one CSV that names every image, its label, mask, patient and split. The one way in for data."""

import difflib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from cfxai.data.grades import with_grades
from cfxai.data.reference import STACK_ARRAYS, Reference, Stacks, sha256, stack_arrays
from cfxai.errors import DataError

SHA256 = {"image": "sha256", "mask": "mask_sha256", "healthy": "healthy_sha256", "region": "region_sha256"}
ROLES = tuple(SHA256)
COLUMNS = ("label", "grade", "patient", "split", *ROLES, *SHA256.values())
THREADS = 4


def read_manifest(path: Path, classes: Sequence[str] = ("normal", "abnormal")) -> pd.DataFrame:
    """The manifest as a table whose files exist and whose SHA-256 sums are known and right.

    Columns: `image`, `mask`, `healthy`, `region` (`Reference` or None), `label` (int; -1 if it comes from the mask),
    `patient` and `split` ("" when the manifest does not say), `sha256` and the `mask_sha256`, `healthy_sha256` and
    `region_sha256` ("" for no file), `grade` (int, only where the manifest gives grades), and whatever else the file
    has, as text.

    Raises:
        DataError: a column is missing or misspelt, a label or grade is unknown, a file is missing, or its sum differs.
    """
    table = _read_csv(path)
    _check_columns(table, path)
    table["label"] = _labels(table, classes, path)
    table = with_grades(table, path)
    for role in ROLES:
        cells = table[role] if role in table else [""] * len(table)
        table[role] = pd.Series(
            [_reference(cell, path.parent, role) if cell else None for cell in cells],
            index=table.index,
            dtype=object,
        )
    _refuse(path, table.index[table["image"].isna()], "without an image")
    if not any(table["mask"].notna()):
        table["mask"] = _masks_beside(table["image"])
    _refuse(path, table.index[(table["label"] < 0) & table["mask"].isna()], "with neither a label nor a mask")
    for column in ("patient", "split", *SHA256.values()):
        if column not in table:
            table[column] = ""
    _check_files(table, path)
    return _with_hashes(table, path)


def sum_columns(table: pd.DataFrame) -> list[str]:
    """The columns of sums that tell data sets apart; that of regions only where there are any.

    So a set without regions is known by the same sums as before there were regions.
    """
    return [column for role, column in SHA256.items() if role != "region" or table[role].notna().any()]


def refuse_gaps(table: pd.DataFrame, path: Path) -> None:
    """Masks and healthy images are there for all abnormal rows or for none.

    Raises:
        DataError: naming the first row without.
    """
    for column in ("mask", "healthy"):
        lacking = table[column].isna() & (table["label"] != 0)
        if table[column].notna().any() and lacking.any():
            raise DataError(
                f"{path}: {lacking.sum()} abnormal rows have no {column} while others do"
                f" ({listing(map(str, table['image'][lacking]), 1)}); fill them in or remove the column."
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'split'?)`, or nothing when no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def listing(names: Iterable[str], shown: int = 3) -> str:
    """The first few names and how many there are."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(
            f"{path}: no such manifest; make one with `python tools/make_manifest.py FOLDER -o {path.name}`."
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV file ({' '.join(str(error).split())}).") from error
    table.columns = table.columns.str.strip()
    if table.empty:
        raise DataError(f"{path}: the manifest has no rows.")
    return table.apply(lambda column: column.str.strip())


def _reference(cell: str, folder: Path, role: str) -> Reference:
    if role == "region" and ".npz::" in cell and cell.count("::") == 1:
        stack, _, index = cell.partition("::")
        raise DataError(f"{cell}: a stack may hold several region maps; name the array, as in {stack}::lobes::{index}.")
    return Reference.parse(cell, folder, role)


def _check_columns(table: pd.DataFrame, path: Path) -> None:
    for column in table.columns.difference(COLUMNS):
        close = difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.8)
        if close and close[0] not in table:
            raise DataError(f"{path}: column '{column}' is not known; rename it to '{close[0]}'.")
    if "image" not in table:
        raise DataError(f"{path}: has no column 'image' (it has {', '.join(table.columns)}).")
    if not {"label", "mask", "grade"} & set(table.columns):
        hint = nearest("label", table.columns)
        raise DataError(
            f"{path}: has no column 'label'{hint}, nor 'mask' or 'grade' from which labels could be derived."
        )


def _labels(table: pd.DataFrame, classes: Sequence[str], path: Path) -> pd.Series:
    if "label" not in table:
        return pd.Series(-1, index=table.index)
    numbers = {name.lower(): number for number, name in enumerate(classes)}
    numbers |= {form: number for number in range(len(classes)) for form in (str(number), f"{number}.0")}
    numbers[""] = -1
    unknown = sorted(set(table["label"].str.lower()) - set(numbers))
    if unknown:
        known = ", ".join(f"{number} = {name}" for number, name in enumerate(classes))
        raise DataError(
            f"{path}: label '{unknown[0]}' is not among {known}; set data.classes to all names, normal first."
        )
    return table["label"].str.lower().map(numbers)


def _masks_beside(images: pd.Series) -> pd.Series:
    """The `mask` array that lies in the same stack as the image."""
    stacks = {
        path: STACK_ARRAYS["mask"] in stack_arrays(path)
        for path in {i.path for i in images if i.array}
        if path.is_file()
    }
    masks = [
        Reference(i.path, STACK_ARRAYS["mask"], i.index) if stacks.get(i.path) and i.array else None for i in images
    ]
    return pd.Series(masks, index=images.index, dtype=object)


def _refuse(path: Path, rows: pd.Index, why: str) -> None:
    if len(rows):
        raise DataError(f"{path}: line {rows[0] + 2} is a row {why} ({len(rows)} such rows); fill it in or remove it.")


def _check_files(table: pd.DataFrame, path: Path) -> None:
    files = {reference.path for role in ROLES for reference in table[role].dropna()}
    missing = sorted(str(file) for file in files if not file.exists())
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(files)} files are missing: {listing(missing)};"
            " paths are relative to the manifest."
        )


def _with_hashes(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    references = list(dict.fromkeys(reference for role in ROLES for reference in table[role].dropna()))
    stacks = Stacks()
    with ThreadPoolExecutor(THREADS) as pool:
        plain = [reference for reference in references if reference.array is None]
        sums = dict(zip(plain, pool.map(lambda reference: sha256(reference, stacks), plain), strict=True))
    sums |= {reference: sha256(reference, stacks) for reference in references if reference.array is not None}
    for role, column in SHA256.items():
        found = table[role].map(lambda reference: sums.get(reference, ""))
        stated = table[column].str.lower()
        wrong = (stated != "") & (stated != found)
        if wrong.any():
            row = table.index[wrong][0]
            raise DataError(
                f"{table[role][row]}: corrupted or changed: its sha256 is {found[row][:12]}…, not {stated[row][:12]}…"
                f" as in {path} ({wrong.sum()} such files); restore it, or make the manifest anew if that is meant."
            )
        table[column] = found
    return table
