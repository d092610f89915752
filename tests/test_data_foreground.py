"""A fingerprint: percentiles of the organ over the train split alone, measured once, and passed on as JSON."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cfxai.data import foreground
from cfxai.data.dataset import Data
from cfxai.data.intensity import Fingerprint, Window, to_unit
from cfxai.errors import ConfigError, DataError

TRAIN = 4


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans in odd axes; the organ (2) is at 60 HU in the train split, at 900 HU in the others."""
    for case in range(6):
        random = np.random.default_rng(case)
        labels = random.integers(0, 3, (9, 10, 6)).astype(np.uint8)
        hounsfield = random.normal(np.where(labels == 2, 60 if case < TRAIN else 900, -500), 20).astype(np.float32)
        for name, values in {"ct": hounsfield, "organs": labels}.items():
            affine = np.diag([-2.0, 2.0, 3.0, 1.0])[:, [1, 0, 2, 3]]
            nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{case}-{name}.nii.gz")
    splits = ["train"] * TRAIN + ["val", "test"]
    rows = [
        {"image": f"{k}-ct.nii.gz", "mask": f"{k}-organs.nii.gz", "patient": k, "split": splits[k]} for k in range(6)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


def data(manifest: Path, fingerprint: Fingerprint | None = None, **changed: Any) -> Data:
    defaults = {"size": 8, "organ_labels": [2], "lesion_labels": [1], "cache": manifest.parent / "cache"}
    return Data(manifest, intensity=fingerprint or Fingerprint(), **defaults | changed)


def organ(folder: Path, cases: range, label: int = 2) -> list[np.ndarray]:
    ct, labels = ([nib.load(folder / f"{k}-{name}.nii.gz").get_fdata() for k in cases] for name in ("ct", "organs"))
    return [values[where == label] for values, where in zip(ct, labels, strict=True)]


def limits(made: Data) -> tuple[float, float]:
    window = made.recipe.intensity
    assert isinstance(window, Window)
    return window.lower, window.upper


def test_it_is_the_window_of_the_train_splits_percentiles(scans: Path) -> None:
    made = data(scans)
    low, high = np.percentile(np.concatenate(organ(scans.parent, range(TRAIN))), [0.5, 99.5])
    assert high < 200
    assert limits(made) == pytest.approx((low, high), rel=1e-6)
    same = Data(scans, intensity=made.recipe.intensity, size=8, lesion_labels=[1], cache=scans.parent / "cache")
    np.testing.assert_array_equal(made.split("test").images, same.split("test").images)
    assert made.fingerprint == same.fingerprint
    (note,) = [note for note in made.notes if "Intensity" in note]
    assert f"{low:g}"[:4] in note
    assert "of the organ in 4 training images; kept in" in note


def test_standardising_first_changes_nothing(scans: Path) -> None:
    """COIN's `ct` normalisation: clip, subtract the mean, divide by the deviation, rescale to [-1, 1]."""
    voxels = np.concatenate(organ(scans.parent, range(TRAIN)))
    window = Fingerprint().window(voxels)
    values = np.linspace(-200, 300, 1001, dtype=np.float32)
    mean, deviation = np.float32(voxels.mean()), np.float32(voxels.std())
    standard = (np.clip(values, window.lower, window.upper) - mean) / deviation
    least, most = (np.array([window.lower, window.upper], np.float32) - mean) / deviation
    found = to_unit(values, window.lower, window.upper)
    np.testing.assert_allclose(found, 2 * (standard - least) / (most - least) - 1, atol=5e-7)


def test_measured_once_and_again_when_the_train_split_changes(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data(scans).recipe.intensity
    monkeypatch.setattr(foreground, "read_image", lambda *_: pytest.fail("measured again"))
    assert data(scans).recipe.intensity == first
    monkeypatch.undo()
    table = pd.read_csv(scans)
    table["split"] = ["test", "val"] + ["train"] * TRAIN
    table.to_csv(scans, index=False)
    assert data(scans).recipe.intensity != first


def test_of_many_voxels_an_even_sample_is_taken(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = limits(data(scans))
    monkeypatch.setattr(foreground, "MAX_VOXELS", 200)
    sampled = limits(data(scans, cache=scans.parent / "other"))
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=25)
    (file,) = (scans.parent / "other/fingerprints").glob("*.json")
    assert 100 < json.loads(file.read_text())["voxels"] <= 200


def test_it_serves_another_data_set(scans: Path) -> None:
    first = data(scans).recipe.intensity
    (file,) = (scans.parent / "cache/fingerprints").glob("*.json")
    other = data(scans, Fingerprint(file=str(file)), organ_labels=[1], lesion_labels=None)
    assert other.recipe.intensity == first
    assert f"from {file}" in other.notes[0]


def test_what_cannot_be_measured_is_said(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"show no organ.*check data\.organ_labels"):
        data(scans, organ_labels=[7]).split("train")
    (tmp_path / "bad.json").write_text('{"lower": 1}')
    for file in ("none.json", "bad.json"):
        with pytest.raises(ConfigError, match=rf"data\.intensity\.file: .*{file} is not a readable fingerprint"):
            data(scans, Fingerprint(file=str(tmp_path / file))).split("train")
    with pytest.raises(ConfigError, match="percentiles must be"):
        Fingerprint(lower=99.0, upper=1.0)
