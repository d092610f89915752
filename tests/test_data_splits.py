"""Manifests are refused when they are wrong, and split by patient, the same whatever the order of their rows."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfxai.data.manifest import read_manifest
from cfxai.data.splits import split_by_patient
from cfxai.errors import DataError


def manifest(folder: Path, rows: int = 12, **columns: list) -> Path:
    for row in range(rows):
        np.save(folder / f"{row}.npy", np.full((4, 4), row, dtype=np.uint8))
    table = pd.DataFrame(
        {"image": [f"{row}.npy" for row in range(rows)], "label": [row % 2 for row in range(rows)], **columns}
    )
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def patients(rows: int = 12) -> dict[str, list[str]]:
    return {"patient": [f"p{row // 2}" for row in range(rows)]}


def table(patient: list[int], label: list[int], split: list[str] | None = None) -> pd.DataFrame:
    count = len(patient)
    return pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(count)],
            "patient": [f"p{number}" for number in patient],
            "label": label,
            "split": split or [""] * count,
            "sha256": [hashlib.sha256(bytes([row])).hexdigest() for row in range(count)],
        }
    )


def test_hash_is_the_files_own_and_checked(tmp_path: Path) -> None:
    path = manifest(tmp_path, **patients())
    read = read_manifest(path)
    assert read["sha256"][3] == hashlib.sha256((tmp_path / "3.npy").read_bytes()).hexdigest()
    manifest(tmp_path, sha256=read["sha256"].tolist())
    damaged = bytearray((tmp_path / "3.npy").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "3.npy").write_bytes(damaged)
    with pytest.raises(DataError, match=r"3\.npy: corrupted or changed"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"spilt": ["train"] * 12}, "'spilt' is not known; rename it to 'split'"),
        ({"label": ["0", "2"] * 6}, "label '2' is not among"),
        ({"label": ["", "1"] * 6}, "line 2 is a row with neither a label nor a mask"),
        ({"image": ["0.npy"] * 11 + ["gone.png"]}, r"1 of 2 files are missing: .*gone\.png"),
    ],
)
def test_mistakes_in_a_manifest_are_named(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(manifest(tmp_path, **columns))


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "manifest.csv")
    (tmp_path / "m.csv").write_text("image,lable\n0.npy,1\n")
    with pytest.raises(DataError, match="'lable' is not known; rename it to 'label'"):
        read_manifest(tmp_path / "m.csv")


def test_labels_may_be_class_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, label=["NORMAL", "Pneumonia"] * 6)
    assert read_manifest(path, ("normal", "pneumonia"))["label"].tolist() == [0, 1] * 6


def test_stack_entries_are_hashed_one_by_one_and_bring_their_mask(tmp_path: Path) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "s.npz", images=images, mask=images > 3)
    (tmp_path / "m.csv").write_text("image,label\ns.npz::0,0\ns.npz::1,1\n")
    read = read_manifest(tmp_path / "m.csv")
    assert read["sha256"].tolist() == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    assert [str(mask) for mask in read["mask"]] == [f"{tmp_path}/s.npz::mask::{k}" for k in range(2)]
    (tmp_path / "m.csv").write_text("image,label\ns.npz::2,0\n")
    with pytest.raises(DataError, match="only 2 entries"):
        read_manifest(tmp_path / "m.csv")


def test_patients_are_required_unless_waived() -> None:
    rows = table([0] * 8, [0, 1] * 4)
    rows["patient"] = ""
    with pytest.raises(DataError, match=r"no 'patient'.*allow_no_patient"):
        split_by_patient(rows, seed=0)
    assert set(split_by_patient(rows, seed=0, allow_no_patient=True).table["split"]) == {"train", "val", "test"}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=20, max_size=60),
    st.randoms(),
    st.integers(0, 99),
)
def test_splits_are_by_patient_and_independent_of_row_order(rows: list, random: object, seed: int) -> None:
    whole = table([p for p, _ in rows] + [90, 91, 92, 93], [y for _, y in rows] + [0, 1, 0, 1])
    order = list(range(len(whole)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first, second = (split_by_patient(t, seed=seed).table for t in (whole, whole.iloc[order]))
    assert first.groupby("patient")["split"].nunique().max() == 1
    assert set(first["split"]) == {"train", "val", "test"}
    assert dict(zip(first["image"], first["split"], strict=True)) == dict(
        zip(second["image"], second["split"], strict=True)
    )


def test_missing_splits_are_carved_out_of_train_and_said_so() -> None:
    patient = [row // 2 for row in range(40)]
    given_val = split_by_patient(table(patient, [0, 1] * 20, ["training"] * 30 + ["valid"] * 10), seed=0)
    assert given_val.judged == "val"
    assert (given_val.table["split"] == "test").sum() == 10
    assert len(given_val.notes) == 2
    given_test = split_by_patient(table(patient, [0, 1] * 20, ["train"] * 30 + ["test"] * 10), seed=0)
    assert given_test.judged == "test"
    assert 0 < (given_test.table["split"] == "val").sum() < 10


def test_leaks_are_listed_unless_waived() -> None:
    rows = table([0, 1, 2, 3, 4, 0], [0, 1] * 3, ["train", "train", "train", "val", "test", "test"])
    with pytest.raises(DataError, match="1 patients are in more than one split: p0"):
        split_by_patient(rows, seed=0)
    rows["patient"] = [f"p{number}" for number in range(6)]
    rows.loc[5, "sha256"] = rows["sha256"][0]
    with pytest.raises(DataError, match=r"1 identical images are in more than one split: 0\.png"):
        split_by_patient(rows, seed=0)
    assert "Allowed by data.allow_leakage" in split_by_patient(rows, seed=0, allow_leakage=True).notes[-1]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train", "trian"], "did you mean 'train'"),
        (["train", ""], "empty in some rows"),
        (["val", "test"], "no train row"),
    ],
)
def test_split_names_are_checked(split: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_by_patient(table([0, 1], [0, 1], split), seed=0)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(DataError, match="too few to split by patient"):
        split_by_patient(table([0] * 6, [0, 1] * 3), seed=0)


def test_too_few_patients_serve_as_every_split_in_a_trial_run() -> None:
    split = split_by_patient(table([0, 1], [0, 1]), seed=0, allow_leakage=True)
    assert split.table.groupby("split")["patient"].nunique().to_dict() == {"train": 2, "val": 2, "test": 2}
    assert any("allow_leakage" in note for note in split.notes)
