"""Synthetic lesions: the published blob, inside the organ, the same whenever and wherever a slice is prepared."""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfxai.data.anomaly import GaussianAnomaly, insert
from cfxai.data.dataset import Data, Dataset
from cfxai.data.intensity import FullRange, Window
from cfxai.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2] / "shared/data/files/nifti_totalseg"
CASE = "c0ffee"
PLAIN = GaussianAnomaly(probability=1.0, smallest=1.0, stretch=0.0, rotation=0.0)
"""COIN's template itself: neither scaled nor stretched nor turned."""


def ellipses(*centres: tuple[int, int], shape: tuple[int, int] = (96, 96), radii: tuple[int, int] = (12, 18)) -> Any:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.any([((rows - r) / radii[0]) ** 2 + ((columns - c) / radii[1]) ** 2 <= 1 for r, c in centres], axis=0)


def drawn(organ: np.ndarray, seed: int, anomaly: GaussianAnomaly = PLAIN, spacing: float = 1.5) -> Any:
    return anomaly.draw(organ, (spacing, spacing), np.random.default_rng(seed))


def test_the_blob_is_the_published_template() -> None:
    """20 points on [-1, 1] in pixels of 1.5 mm; between its points our template has its value at the centre."""
    added, mask = drawn(ellipses((48, 48)), 0)
    row, column = np.unravel_index(added.argmax(), added.shape)
    steps = np.arange(-9, 10)  # of 2/19 of [-1, 1]
    distance = np.hypot(*np.meshgrid(steps, steps)) * 2 / 19
    expected = 0.9 * np.exp(-(distance**2) / (2 * 0.4**2))
    found = added[row - 9 : row + 10, column - 9 : column + 10]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.count_nonzero(added) == 19**2
    np.testing.assert_array_equal(mask, added > 0.9 * 0.25)
    assert mask.sum() == pytest.approx(math.pi * (0.4 * math.sqrt(2 * math.log(4)) * 9.5) ** 2, rel=0.05)


@given(st.integers(0, 10_000), st.floats(0.8, 3.0))
@settings(max_examples=20)
def test_lengths_are_in_mm(seed: int, spacing: float) -> None:
    """The lesion's area in mm² lies between those of the smallest and the largest scale and stretch."""
    organ = np.ones((round(80 / spacing), round(90 / spacing)), dtype=bool)
    anomaly = GaussianAnomaly(probability=1.0, smallest=0.75, stretch=0.2)
    _, mask = drawn(organ, seed, anomaly, spacing)
    whole = math.pi * (0.4 * math.sqrt(2 * math.log(4)) * 14.25) ** 2
    tolerance = 2 * math.pi * 12 * spacing  # pixels along the outline
    assert whole * 0.75**2 / 1.2**2 - tolerance <= mask.sum() * spacing**2 <= whole / 0.8**2 + tolerance


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_blobs_lie_strictly_inside_one_of_the_two_largest_parts(seed: int) -> None:
    large, small = ellipses((25, 25), (70, 70)), ellipses((25, 75), radii=(10, 12))
    added, _ = drawn(large | small, seed)
    row, column = np.unravel_index(added.argmax(), added.shape)
    assert large[row - 1 : row + 2, column].all()
    assert large[row, column - 1 : column + 2].all()
    centre = 25 if row < 48 else 70
    assert abs(row - centre) <= 0.9 * 12.5
    assert abs(column - centre) <= 0.9 * 18.5


def test_both_kidneys_and_their_whole_inside_are_used() -> None:
    organ = ellipses((25, 25), (70, 70))
    organ[23:28, 20:30] = False  # the sinus: inside the outline
    centres = np.array([np.unravel_index(drawn(organ, seed)[0].argmax(), organ.shape) for seed in range(100)])
    left = (centres[:, 0] < 48).mean()
    assert 0.4 < left < 0.6
    assert not organ[tuple(centres.T)].all()


@pytest.mark.parametrize(("radii", "there"), [((9, 9), False), ((11, 11), True)])
def test_organs_no_larger_than_the_blob_get_none(radii: tuple[int, int], there: bool) -> None:
    """The bounding box of 19² pixels is smaller than 20², that of 23² larger."""
    assert (drawn(ellipses((48, 48), radii=radii), 0) is not None) is there


def test_half_are_stretched_and_the_share_of_slices_is_the_probability() -> None:
    organ = ellipses((32, 32), shape=(64, 64))
    found = [drawn(organ, seed, GaussianAnomaly(rotation=0.0)) for seed in range(200)]
    there = [added for added, _ in filter(None, found)]
    assert len(there) / len(found) == pytest.approx(0.65, abs=0.1)
    assert np.mean([is_round(added) for added in there]) == pytest.approx(0.5, abs=0.12)


def is_round(added: np.ndarray) -> bool:
    """Whether rows and columns can be exchanged."""
    row, column = np.unravel_index(added.argmax(), added.shape)
    around = added[row - 9 : row + 10, column - 9 : column + 10]
    return bool(np.allclose(around, around.T, atol=1e-6))


@pytest.mark.parametrize("channels", [1, 3])
def test_inserted_in_native_units_and_cut_off_at_the_upper_limit(channels: int) -> None:
    organs = np.stack([ellipses((48, 48))] * 3)
    images = np.random.default_rng(0).uniform(-100, 300, (channels, *organs.shape)).astype(np.float32)
    changed, lesions = insert(PLAIN, images, organs, case=CASE, spacing=(1.5, 1.5), limits=(-100.0, 300.0))
    for number in range(3):
        rng = np.random.default_rng([0, int(CASE, 16), number])
        added, mask = PLAIN.draw(organs[number], (1.5, 1.5), rng) or pytest.fail("no blob")
        np.testing.assert_array_equal(lesions[number], mask)
        expected = np.minimum((images[:, number] + 100) / 400 + added, 1) * 400 - 100
        np.testing.assert_allclose(changed[:, number], expected, atol=1e-3)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans of 8 slices of 2 mm pixels, with one kidney each side (2 and 3), in two of the slices none."""
    kidneys = ellipses((32, 16), (32, 48), shape=(64, 64), radii=(13, 11))
    for case in range(6):
        labels = np.zeros((64, 64, 8), dtype=np.uint8)
        labels[..., 1:7] = (kidneys * np.where(np.arange(64)[:, None] < 32, 2, 3))[..., None]
        hounsfield = np.random.default_rng(case).normal(30, 10, labels.shape) - 100.0 * (labels == 0)
        for name, values in {"ct": hounsfield.astype(np.float32), "organs": labels}.items():
            nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / f"{case}-{name}.nii.gz")
    splits = ["train", "train", "train", "train", "val", "test"]
    rows = [
        {"image": f"{k}-ct.nii.gz", "mask": f"{k}-organs.nii.gz", "patient": k, "split": splits[k]} for k in range(6)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


def data(manifest: Path, **changed: Any) -> Data:
    defaults = {
        "intensity": Window(-200.0, 300.0), "size": 64, "organ_labels": [2, 3], "min_organ_area": 50.0,
        "anomaly": GaussianAnomaly(), "cache": manifest.parent / "cache",
    }  # fmt: skip
    return Data(manifest, **defaults | changed)


def test_labels_masks_and_lesion_free_images_come_from_the_anomaly(scans: Path) -> None:
    split = data(scans, organ_masks=True).split("train")
    assert len(split) == 24
    assert 0.4 < split.labels.mean() < 0.9
    assert split.masks is not None
    assert split.healthy is not None
    assert split.organs is not None
    np.testing.assert_array_equal(split.masks.any((1, 2)), split.labels)
    difference = (split.images - split.healthy)[:, 0] / 2
    np.testing.assert_array_equal(difference[split.labels == 0], 0)
    assert difference.max() <= 0.9
    np.testing.assert_array_equal(difference > 0.9 * 0.25, split.masks)  # nothing saturates here
    inside = (split.masks & split.organs).sum() / split.masks.sum()
    assert inside > 0.6
    np.testing.assert_array_equal(split.organs.sum((1, 2)), split.organs[0].sum())


def test_a_slice_is_the_same_whatever_else_is_prepared(scans: Path) -> None:
    """Neither the order of files, their names and splits nor the other slices change a slice; another seed does."""
    first = by_slice(data(scans))
    (scans.parent / "0-ct.nii.gz").rename(scans.parent / "z-ct.nii.gz")
    table = pd.read_csv(scans).replace("0-ct.nii.gz", "z-ct.nii.gz")
    table["split"] = ["test", "val", "train", "train", "train", "train"]
    table.iloc[::-1].to_csv(scans.parent / "other.csv", index=False)
    fewer = by_slice(data(scans.parent / "other.csv", slice_step=3, cache=scans.parent / "second"))
    assert 0 < len(fewer) < len(first)
    for place, image in fewer.items():
        np.testing.assert_array_equal(image, first[place])
    other = by_slice(data(scans.parent / "other.csv", anomaly=GaussianAnomaly(seed=1)))
    assert any((image != first[place]).any() for place, image in other.items())


def by_slice(made: Data) -> dict[tuple[str, int], np.ndarray]:
    splits: list[Dataset] = [made.split(name) for name in ("train", "val", "test")]
    return {
        (group, number): image
        for split in splits
        for group, number, image in zip(split.groups, split.origin.slices, split.images, strict=True)
    }


def test_among_neighbours_the_middle_slice_alone_has_an_anomaly(scans: Path) -> None:
    flat, thick = (data(scans, neighbours=k).split("train") for k in (0, 1))
    assert flat.healthy is not None
    assert thick.healthy is not None
    np.testing.assert_array_equal(thick.images[:, 1], flat.images[:, 0])
    np.testing.assert_array_equal(thick.healthy[:, 1], flat.healthy[:, 0])
    np.testing.assert_array_equal(thick.images[:, [0, 2]], thick.healthy[:, [0, 2]])
    assert (thick.healthy[:, 0] != thick.healthy[:, 1]).any()


def test_pictures_get_anomalies_too(tmp_path: Path) -> None:
    """In pixels, since pictures have no mm; the manifest's own labels do not count."""
    organ = np.stack([ellipses((32, 32), shape=(64, 64), radii=(16, 16))] * 12).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 25, organ.shape).astype(np.uint8)
    np.savez(tmp_path / "s.npz", images=images, mask=organ)
    rows = [{"image": f"s.npz::{k}", "label": 1, "patient": k} for k in range(12)]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    split = data(tmp_path / "m.csv", intensity=FullRange(), organ_labels=[1], anomaly=GaussianAnomaly(size=20.0)).split(
        "train"
    )
    assert split.masks is not None
    assert set(split.labels) == {0, 1}
    np.testing.assert_array_equal(split.masks.any((1, 2)), split.labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"organ_labels": None, "min_organ_area": 0.0}, r"data\.anomaly and data\.organ_labels only work together"),
        ({"lesion_labels": [2]}, r"set data\.lesion_labels=null"),
        ({"plane": "volume"}, "drawn into slices"),
    ],
)
def test_settings_that_contradict_an_anomaly_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data(Path("m.csv"), **changed)


def test_healthy_images_and_anomalies_exclude_each_other(scans: Path) -> None:
    table = pd.read_csv(scans)
    table.assign(healthy=table["image"]).to_csv(scans, index=False)
    with pytest.raises(DataError, match=r"data\.anomaly makes its own; remove the column healthy"):
        data(scans).split("train")


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"size": 0.0}, {"edge": 1.0}, {"smallest": 2.0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.anomaly"):
        GaussianAnomaly(**wrong)


@pytest.mark.skipif(not SHARED.is_dir(), reason="real files are not here")
def test_in_a_real_ct_blobs_centre_on_kidneys(tmp_path: Path) -> None:
    row = {"image": SHARED / "example_ct_sm.nii.gz", "mask": SHARED / "example_seg.nii.gz", "patient": "p"}
    splits = [row | {"split": split} for split in ("train", "val", "test")]
    pd.DataFrame(splits).to_csv(tmp_path / "m.csv", index=False)
    split = data(tmp_path / "m.csv", size=128, organ_masks=True, allow_leakage=True).split("test")
    assert split.healthy is not None
    assert split.organs is not None
    added = (split.images - split.healthy)[split.labels == 1, 0]
    peaks = added.reshape(len(added), -1).argmax(1)
    organs = split.organs[split.labels == 1].reshape(len(added), -1)
    assert len(added) >= 8
    assert organs[np.arange(len(added)), peaks].mean() > 0.8  # the rest: in the sinus, or displaced by saturation
