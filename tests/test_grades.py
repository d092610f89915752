"""Severity grades: from the manifest or from the lesion's area, to batches; and the graded kidney phantom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from cfxai.data.abdomen.lesions import CORTEX
from cfxai.data.abdomen.scan import TUMOUR
from cfxai.data.augment import Augment
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data
from cfxai.data.export import Origin
from cfxai.data.geometry import PLANES, WHOLE
from cfxai.data.grades import grades_by_area
from cfxai.data.intensity import FullRange, Window
from cfxai.data.phantom import Phantom
from cfxai.data.splits import split_by_patient
from cfxai.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")


def pictures(folder: Path, **columns: Sequence[object]) -> Path:
    """A manifest of random pictures with these columns, a patient each, the splits in turn."""
    count = len(next(iter(columns.values())))
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    table = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(count)],
            "patient": range(count),
            "split": [SPLITS[number % 3] for number in range(count)],
            **columns,
        }
    )
    table.to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


def volumes(
    folder: Path, masks: dict[str, np.ndarray], spacing: Sequence[float] = (1, 1, 1), **columns: object
) -> Path:
    """A manifest of three volumes, their intensity 1 in the mask, one for each split."""
    rows = []
    for name, mask in masks.items():
        for role in ("image", "mask"):
            values = mask.astype(np.int16)
            values[0, 0, 0] -= role == "image" and SPLITS.index(name)  # no two files are the same
            nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1])), folder / f"{name}_{role}.nii.gz")
        rows.append({role: f"{name}_{role}.nii.gz" for role in ("image", "mask")} | {"patient": name, "split": name})
    pd.DataFrame(rows).assign(**columns).to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


def opened(manifest: Path, **settings: Any) -> Data:
    return Data(manifest, **{"intensity": FullRange(), "size": 6, "cache": manifest.parent / "cache"} | settings)


def joined(data: Data, name: str) -> np.ndarray:
    return np.concatenate([getattr(data.split(split), name) for split in SPLITS])


def test_grades_come_with_batches_and_give_labels_where_there_are_none(tmp_path: Path) -> None:
    data = opened(pictures(tmp_path, grade=[0, 1, 3, 2, 0, 0, 4, "2.0", 1]))
    train = data.split("train")
    np.testing.assert_array_equal(train.grades, [0, 2, 4])
    np.testing.assert_array_equal(train.labels, [0, 1, 1])
    grade = train.batch([2, 0])["grade"]
    assert grade.dtype == torch.int64
    assert grade.tolist() == [4, 0]
    assert data.split("val").grades.tolist() == [1, 0, 2]
    batches = Batches(train, 2, seed=0, augment=Augment())
    assert set(torch.cat([batches(step)["grade"] for step in range(4)]).tolist()) <= {0, 2, 4}


def test_an_empty_grade_of_a_normal_image_is_0(tmp_path: Path) -> None:
    data = opened(pictures(tmp_path, label=[0, 1, 1, 1, 0, 0], grade=["", 1, 2, 3, 0, ""]))
    assert {split: data.split(split).grades.tolist() for split in SPLITS} == {
        "train": [0, 3], "val": [1, 0], "test": [2, 0],
    }  # fmt: skip


def test_only_sets_with_grades_have_them_and_are_told_apart_by_them(tmp_path: Path) -> None:
    labels = [0, 1, 1, 1, 0, 0]
    columns = {
        "none": {},
        "empty": {"grade": [""] * 6},
        "some": {"grade": labels},
        "more": {"grade": [0, 2, 1, 1, 0, 0]},
    }
    prints = {}
    for name, extra in columns.items():
        (tmp_path / name).mkdir()
        data = opened(pictures(tmp_path / name, label=labels, **extra))
        prints[name] = data.fingerprint
        assert (data.split("train").grades is None) == (name in ("none", "empty"))
        assert ("grade" in data.split("train").batch([0])) == (name in ("some", "more"))
        assert ("grade" in data.manifest_lock()) == (name in ("some", "more"))
    assert prints["none"] == prints["empty"]
    assert len(set(prints.values())) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1, 1], "grade": [0, 0, 2]}, r"line 3 has label 1 but grade 0; .* \(1 such rows\)"),
        ({"label": [0, 0, 1], "grade": [0, 2, 2]}, "line 3 has label 0 but grade 2"),
        ({"label": [0, 1, 1], "grade": [0, 1, 1.5]}, "line 4 has grade '1.5'; grades are whole numbers from 0"),
        ({"label": [0, 1, 1], "grade": [0, -1, 1]}, "line 3 has grade '-1'"),
        ({"label": [0, 1, 1], "grade": ["mild", 1, 1]}, "line 2 has grade 'mild'"),
        ({"label": [0, 1, 1], "grade": [0, "nan", 1]}, "line 3 has grade 'nan'"),
        ({"label": [0, 1, 1], "grade": [0, "", 1]}, "line 3 has no grade while others do"),
        ({"grade": [0, "", 1]}, "line 3 has no grade while others do"),
        ({"label": [0, 1, 1], "grades": [0, 1, 1]}, "rename it to 'grade'"),
        ({"note": [0, 1, 1]}, "has no column 'label', nor 'mask' or 'grade'"),
    ],
)
def test_grades_that_cannot_be_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(pictures(tmp_path, **columns)).split("train")


def test_rare_grades_are_spread_over_the_splits() -> None:
    grades = np.repeat(np.arange(5), 8)
    table = pd.DataFrame(
        {"patient": [f"{k:02d}" for k in range(40)], "grade": grades, "label": (grades > 0).astype(int)}
    )
    table = table.assign(split="", sha256=table["patient"], image=table["patient"])
    for seed in range(3):
        split = split_by_patient(table, seed=seed, val_fraction=0.25, test_fraction=0.25).table
        assert (split.groupby("split")["grade"].nunique() == 5).all()


def test_a_slice_has_the_grade_of_its_volume_where_it_shows_the_lesion(tmp_path: Path) -> None:
    masks = {name: np.zeros((6, 6, 4), int) for name in SPLITS}
    masks["train"][2:4, 2:4, 1:3] = 1
    masks["test"][1:5, 2:4, 3] = 1
    manifest = volumes(tmp_path, masks, grade=[3, 0, 1])
    data = opened(manifest, intensity=Window(0.0, 1.0))
    assert {name: data.split(name).grades.tolist() for name in SPLITS} == {
        "train": [0, 3, 3, 0], "val": [0, 0, 0, 0], "test": [0, 0, 0, 1],
    }  # fmt: skip
    whole = opened(manifest, intensity=Window(0.0, 1.0), plane="volume")
    assert joined(whole, "grades").tolist() == [3, 0, 1]


@pytest.mark.parametrize(
    ("plane", "grades", "said"), [("axial", [0, 1, 1], "grade 0"), ("volume", [1, 2, 1], "grade 2")]
)
def test_a_mask_that_contradicts_the_grade_is_an_error(tmp_path: Path, plane: str, grades: list, said: str) -> None:
    masks = {name: np.zeros((6, 6, 4), int) for name in SPLITS}
    masks["train"][2:4, 2:4, 1] = masks["test"][2:4, 2:4, 1] = 1
    data = opened(volumes(tmp_path, masks, grade=grades), intensity=Window(0.0, 1.0), plane=plane)
    with pytest.raises(DataError, match=f"the manifest says {said}, but there is"):
        joined(data, "grades")


@pytest.mark.parametrize("plane", PLANES)
def test_areas_are_measured_in_mm(tmp_path: Path, plane: str) -> None:
    spacing = (2.0, 3.0, 5.0)
    masks = {name: np.random.default_rng(k).random((6, 6, 6)) < 0.2 for k, name in enumerate(SPLITS)}
    counts = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.get(plane, (0, 1, 2))
    expected, bounds = [], (np.prod([spacing[axis] for axis in counts]) * np.array([4, 6, 9, 40, 48])).tolist()
    for mask in masks.values():
        slices = [mask] if plane in WHOLE else np.moveaxis(mask, {"axial": 2, "coronal": 1, "sagittal": 0}[plane], 0)
        pixels = np.array([part.sum() for part in slices])
        area = pixels * np.prod([spacing[axis] for axis in counts])
        expected += [0 if a == 0 else 1 + sum(a >= bound - 1e-9 for bound in bounds) for a in area]
    data = opened(volumes(tmp_path, masks, spacing), intensity=Window(0.0, 1.0), plane=plane, grade_areas=bounds)
    assert joined(data, "grades").tolist() == expected
    assert len(set(expected)) > (1 if plane in WHOLE else 3)


@given(st.lists(st.integers(0, 36), min_size=1, max_size=8), st.sets(st.integers(1, 36), min_size=1, max_size=5))
def test_a_larger_lesion_never_has_a_lower_grade(pixels: list[int], bounds: set[int]) -> None:
    masks = np.zeros((len(pixels), 36), bool)
    for mask, count in zip(masks, pixels, strict=True):
        mask[:count] = True
    labels = (np.array(pixels) > 0).astype(int)
    axes = [{"length": 6, "start": 0.0, "stop": 6.0, "size": 6}] * 2
    origin = Origin(["a"] * len(pixels), [0] * len(pixels), {"a": {"affine": None, "axes": axes}})
    grades = grades_by_area(masks.reshape(-1, 6, 6), labels, origin, "axial", sorted(bounds))
    assert grades.tolist() == [count and 1 + sum(count >= bound for bound in bounds) for count in pixels]


@pytest.mark.parametrize("areas", [[], [0.0], [-1.0, 2.0], [3.0, 3.0], [5.0, 2.0]])
def test_areas_that_do_not_rise_are_refused(tmp_path: Path, areas: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.grade_areas"):
        opened(tmp_path / "m.csv", grade_areas=areas)


def test_areas_need_masks_and_win_over_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no masks, which data\.grade_areas needs"):
        opened(pictures(tmp_path, label=[0, 1, 1]), grade_areas=[4.0]).split("train")
    masks = {name: np.zeros((6, 6, 1), int) for name in SPLITS}
    for count, mask in enumerate(masks.values(), 1):
        mask[:count, :2, 0] = 1
    data = opened(volumes(tmp_path, masks, grade=[9, 8, 7]), intensity=Window(0.0, 1.0), grade_areas=[4.0, 6.0])
    assert joined(data, "grades").tolist() == [1, 2, 3]
    assert data.fingerprint != opened(tmp_path / "m.csv", intensity=Window(0.0, 1.0), grade_areas=[4.0]).fingerprint


COARSE = {"size": 32, "spacing": 6.0, "slices": 14, "slice_thickness": 10.0}
"""The kidney phantom with few voxels."""


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shares = {"train": 0.9, "val": 0.05, "test": 0.05}
    phantom = Phantom(patients=12, tumour_fraction=0.8, cyst_fraction=0.0, noise=0.0, grades=5, splits=shares, **COARSE)
    return phantom.manifest(tmp_path_factory.mktemp("kidneys"))


def test_size_and_contrast_of_a_tumour_grow_with_its_grade(kidneys: Path) -> None:
    table = pd.read_csv(kidneys)
    assert (table["grade"] == table["severity"]).all()
    assert ((table["grade"] > 0) == (table["label"] == 1)).all()
    sick = table[table["label"] == 1]
    images, masks = (
        [np.asarray(nib.load(kidneys.parent / file).dataobj) for file in sick[role]] for role in ("image", "mask")
    )
    volume = [(mask == TUMOUR).sum() for mask in masks]
    contrast = [CORTEX - np.percentile(image[mask == TUMOUR], 60) for image, mask in zip(images, masks, strict=True)]
    assert set(sick["grade"]) == {1, 2, 3, 4}
    means = sick.assign(volume=volume, contrast=contrast).groupby("grade")[["volume", "contrast"]].mean()
    assert (means.diff().dropna() > 0).all(axis=None)
    assert spearmanr(sick["grade"], volume)[0] > 0.85


def test_the_area_of_the_lesion_ranks_as_the_grade_of_the_slice(kidneys: Path, tmp_path: Path) -> None:
    settings = {"size": 32, "lesion_labels": [2], "min_lesion_area": 120.0, "grade_areas": [400.0, 800.0, 1200.0]}
    dataset = Data(kidneys, intensity=Window(-160.0, 240.0), cache=tmp_path, **settings).split("train")
    area, sick = dataset.masks.sum((1, 2)), dataset.labels > 0
    assert spearmanr(dataset.grades[sick], area[sick])[0] >= 0.95
    assert (dataset.grades[~sick] == 0).all()
    assert set(dataset.grades) == {0, 1, 2, 3, 4}


def test_a_graded_tumour_changes_nothing_but_itself() -> None:
    plain, graded = (Phantom(tumour_fraction=1.0, grades=grades, **COARSE).scan(0) for grades in (None, 2))
    np.testing.assert_array_equal(plain.healthy, graded.healthy)
    assert (graded.image != graded.healthy).any()
    assert not np.array_equal(plain.image, graded.image)
    assert graded.severity == 1


def test_the_manifest_of_a_phantom_without_grades_has_no_such_column(tmp_path: Path) -> None:
    assert "grade" not in pd.read_csv(Phantom(patients=1, **COARSE).manifest(tmp_path))


def test_less_than_two_grades_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"phantom\.grades is 1"):
        Phantom(grades=1)
