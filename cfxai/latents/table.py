"""A table of features, labels and splits in an `.npz` file: all that fitting and scoring heads needs."""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from cfxai.errors import DataError

SPLITS = ("train", "val", "test")
REQUIRED = ("features", "labels", "split")


@dataclass(frozen=True)
class LatentTable:
    """Latents of images and what is known of each.

    Attributes:
        features: [n d].
        labels: [n], 0 = normal; above it grades, or 1 = any finding.
        split: [n], each of `SPLITS`.
        groups: [n], the patient; None = each row by itself.
    """

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    split: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"] | None = None

    def part(self, split: str) -> Bool[np.ndarray, " n"]:
        return self.split == split

    @property
    def scored(self) -> list[str]:
        """The splits that are not trained on, the one that judges first: test, or val where there is no test."""
        return [name for name in ("test", "val") if self.part(name).any()]


def read_table(path: Path) -> LatentTable:
    """Reads `features` [n d], `labels` [n], `split` [n] (text or bytes) and perhaps `groups` [n].

    Raises:
        DataError: no such file, or none that can be read without running code; a missing array, or shapes that do not
            fit; features that are not finite, labels that are no whole numbers >= 0, an unknown split; no training
            rows of either kind, or nothing to score; a label to score that training lacks, or a group on both sides.
    """
    arrays = _arrays(path)
    features, labels, split = (arrays[key] for key in REQUIRED)
    groups = arrays.get("groups")
    if features.ndim != 2 or features.dtype.kind not in "fiub" or not features.size:
        raise DataError(f"{path}: features must be a table of numbers [n d], got {features.dtype} {features.shape}.")
    for key in ("labels", "split", "groups"):
        if key in arrays and arrays[key].shape != (len(features),):
            raise DataError(f"{path}: {key} has shape {arrays[key].shape}, but there are {len(features)} features.")
    if (wrong := ~np.isfinite(features).all(1)).any():
        raise DataError(f"{path}: features of row {wrong.argmax()} ({wrong.sum()} in all) are not finite.")
    if labels.dtype.kind not in "fiub" or not np.isfinite(labels).all() or (labels < 0).any() or (labels % 1).any():
        raise DataError(f"{path}: labels must be whole numbers, 0 for normal, not below it.")
    table = LatentTable(
        features.astype(float), labels.astype(np.int64), _text(split), None if groups is None else _text(groups)
    )
    try:
        _check(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return table


def write_table(path: Path, table: LatentTable) -> None:
    """The `.npz` that `read_table` reads."""
    arrays = {"features": table.features, "labels": table.labels, "split": table.split.astype(str)}
    if table.groups is not None:
        arrays["groups"] = table.groups.astype(str)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # its last keyword is no array


def _check(table: LatentTable) -> None:
    if unknown := _names(set(table.split) - set(SPLITS)):
        raise DataError(f"split {unknown} is none of {', '.join(SPLITS)}.")
    training = table.part("train")
    if not training.any():
        raise DataError("no row has split train.")
    if not table.scored:
        raise DataError("no row has split val or test: there is nothing to score on.")
    for what, there in (("normal (label 0)", table.labels == 0), ("with a finding (label above 0)", table.labels > 0)):
        if not (there & training).any():
            raise DataError(f"no training row is {what}; heads need both.")
    if unseen := _names(set(table.labels[~training]) - set(table.labels[training])):
        raise DataError(f"label {unseen} is in {' or '.join(table.scored)}, but never in train.")
    if table.groups is not None:
        for name in table.scored:
            if shared := sorted(set(table.groups[training]) & set(table.groups[table.part(name)])):
                raise DataError(f"group {shared[0]} ({len(shared)} in all) is in both train and {name}.")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    arrays, key = {}, ""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: is a single array; an .npz of features, labels and split is needed.")
        with file:
            for key in REQUIRED:
                if key not in file.files:
                    raise DataError(f"{path}: has no array '{key}' (it has {', '.join(file.files) or 'none'}).")
            for key in (*REQUIRED, *{"groups"}.intersection(file.files)):
                arrays[key] = file[key]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            what = f"array '{key}' is pickled" if key else "is pickled or no .npz"
            raise DataError(
                f"{path}: {what}; only plain numbers and text are read, as pickles could run code."
            ) from None
        raise DataError(f"{path}: cannot be read as .npz ({error}); make or copy it again.") from error
    return arrays


def _text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values.astype(str)


def _names(values: Iterable[object]) -> str:
    return ", ".join(sorted(str(value) for value in values))
