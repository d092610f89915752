"""Tables of latents as files: what is read back, and what is wrong with those that cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_latent_heads import graded

from cfxai.errors import DataError
from cfxai.latents.table import LatentTable, read_table, write_table

Arrays = dict[str, Any]


@pytest.fixture
def table() -> LatentTable:
    z, labels = graded(240, d=5)
    return LatentTable(z, labels, np.repeat(["train", "val", "test"], [120, 60, 60]), (np.arange(240) // 2).astype(str))


def arrays_of(table: LatentTable) -> Arrays:
    return {"features": table.features, "labels": table.labels, "split": table.split, "groups": table.groups}


def test_reading_what_was_written(table: LatentTable, tmp_path: Path) -> None:
    write_table(tmp_path / "a.npz", table)
    written = read_table(tmp_path / "a.npz")
    np.savez(
        tmp_path / "b.npz",
        **arrays_of(table) | {"split": table.split.astype("S"), "labels": table.labels.astype(float)},
    )
    for read in (written, read_table(tmp_path / "b.npz")):
        assert np.array_equal(read.features, table.features)
        assert np.array_equal(read.labels, table.labels)
        assert read.split.tolist() == table.split.tolist()
        assert read.groups is not None
        assert read.groups.tolist() == table.groups.astype(str).tolist()  # type: ignore[union-attr]


def put(key: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[key] = arrays[key].copy()
        arrays[key][place] = value

    return spoil


def replace(key: str, make: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({key: make(arrays[key])})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda arrays: arrays.pop("labels"), r"no array 'labels' \(it has features, split, groups\)"),
        (put("features", (3, 1), np.nan), "row 3"),
        (replace("labels", lambda y: y[:-1]), "labels has shape"),
        (replace("features", lambda z: z[:, 0]), "table of numbers"),
        (replace("labels", lambda y: y + 0.5), "whole numbers"),
        (replace("labels", lambda y: y - 1), "whole numbers"),
        (replace("labels", np.zeros_like), "no training row is with a finding"),
        (replace("labels", lambda y: y + 1), "no training row is normal"),
        (put("labels", -1, 9), "label 9 is in test or val, but never in train"),
        (replace("split", lambda s: np.where(s == "val", "validation", s)), "split validation is none of"),
        (replace("split", lambda s: np.full(len(s), "train")), "nothing to score"),
        (replace("split", lambda s: np.full(len(s), "val")), "no row has split train"),
        (put("groups", 120, "7"), "group 7"),
        (replace("labels", lambda y: y.astype(object)), "'labels' is pickled"),
    ],
)
def test_a_file_that_cannot_be_used(
    table: LatentTable, tmp_path: Path, spoil: Callable[[Arrays], None], told: str
) -> None:
    found = arrays_of(table)
    spoil(found)
    np.savez(tmp_path / "bad.npz", **found)
    with pytest.raises(DataError, match=told) as caught:
        read_table(tmp_path / "bad.npz")
    assert str(caught.value).startswith(str(tmp_path / "bad.npz"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz"):
        read_table(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        read_table(tmp_path / "one.npy")
