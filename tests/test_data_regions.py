"""Region label maps named in the manifest: they follow the image through cuts, resizing and augmentation."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from cfxai.data.augment import Augment
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.data.intensity import FullRange, Window
from cfxai.errors import DataError

SPLITS = ("train", "val", "test")


def pictures(folder: Path, regions: list[np.ndarray | None], column: str = "region") -> Path:
    """A manifest of random pictures of the regions' shape, a patient each."""
    rows = []
    shape = next(region.shape for region in regions if region is not None)
    for number, region in enumerate(regions):
        pixels = np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "label": number // 3 % 2, "patient": number, "split": SPLITS[number % 3]}
        if region is not None:
            Image.fromarray(region).save(folder / f"region_{number}.png")
            row[column] = f"region_{number}.png"
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


def prepared(manifest: Path, split: str = "train", **settings: Any) -> Dataset:
    settings = {"intensity": FullRange(), "size": 8, "cache": manifest.parent / "cache"} | settings
    return Data(manifest, **settings).split(split)


def blocks(pattern: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(pattern, np.ones((factor, factor), np.uint8)).astype(np.uint8)


@pytest.mark.parametrize(("size", "factor"), [(8, 1), (4, 2), (16, 1), (24, 1)])
def test_a_pattern_of_regions_is_resized_by_whole_factors_without_a_new_label(
    tmp_path: Path, size: int, factor: int
) -> None:
    coarse = np.random.default_rng(3).choice([0, 1, 2, 7, 250], (8 // factor, 8 // factor)).astype(np.uint8)
    dataset = prepared(pictures(tmp_path, [blocks(coarse, factor)] * 6), size=size)
    expected = coarse if size <= 8 else blocks(coarse, size // 8)
    assert dataset.regions is not None
    assert dataset.regions.dtype == np.int16
    np.testing.assert_array_equal(dataset.regions, [expected] * 2)
    np.testing.assert_array_equal(dataset.batch([1])["region"], [expected])


def test_any_factor_takes_the_pixel_in_which_the_centre_of_a_cell_lies(tmp_path: Path) -> None:
    region = np.random.default_rng(1).integers(0, 9, (13, 21)).astype(np.uint8)
    dataset = prepared(pictures(tmp_path, [region] * 3), size=7)
    centres = [(np.arange(7) + 0.5) * length / 7 - 0.5 for length in region.shape]
    nearest = map_coordinates(region, np.meshgrid(*centres, indexing="ij"), order=0)
    np.testing.assert_array_equal(dataset.regions[0], nearest)


@pytest.mark.parametrize("field_of_view", [24.0, 12.0, 48.0])
def test_regions_of_volumes_lie_on_the_pixels_of_their_slices(tmp_path: Path, field_of_view: float) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (12, 12, 6))
    affine = np.array([[0, -2.0, 0, 3], [2.0, 0, 0, 1], [0, 0, 5.0, 2], [0, 0, 0, 1]])  # turned about the long axis
    for name, values in {"image": 100.0 * labels, "region": labels}.items():
        nib.save(nib.Nifti1Image(values.astype(np.int16), affine), tmp_path / f"{name}.nii.gz")
    row = {"image": "image.nii.gz", "region": "region.nii.gz", "label": 0}
    pd.DataFrame([row | {"patient": split, "split": split} for split in SPLITS]).to_csv(tmp_path / "m.csv", index=False)
    settings = {"field_of_view": field_of_view, "size": int(field_of_view / 2), "slice_step": 2}
    dataset = prepared(tmp_path / "m.csv", intensity=Window(0.0, 400.0), allow_leakage=True, **settings)
    np.testing.assert_array_equal(dataset.regions, np.rint((dataset.images[:, 0] + 1) * 2))
    assert len(dataset) == 3


def test_regions_do_not_depend_on_lesion_filters_or_neighbours(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 5), np.int16)
    labels[2:4, 2:4, 3] = 2
    regions = np.broadcast_to(np.arange(5), (8, 8, 5)).astype(np.int16)
    for name, values in {"image": labels, "mask": labels, "region": regions}.items():
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    row = {role: f"{role}.nii.gz" for role in ("image", "mask", "region")}
    pd.DataFrame([row | {"patient": split, "split": split} for split in SPLITS]).to_csv(tmp_path / "m.csv", index=False)
    settings = {"min_lesion_area": 10.0, "neighbours": 1, "channels": 1, "allow_leakage": True}
    dataset = prepared(tmp_path / "m.csv", intensity=Window(0.0, 4.0), **settings)
    assert dataset.origin.slices == [0, 1, 2, 4]
    np.testing.assert_array_equal(dataset.regions.max((1, 2)), [0, 1, 2, 4])


def test_an_image_without_a_region_map_has_no_regions_and_a_set_without_has_none(tmp_path: Path) -> None:
    region = np.full((8, 8), 3, np.uint8)
    dataset = prepared(pictures(tmp_path, [region, region, region, None, region, region]))
    np.testing.assert_array_equal(dataset.regions.mean((1, 2)), [3, 0])
    other = tmp_path / "without"
    other.mkdir()
    plain = prepared(pictures(other, [region] * 3, column="parts"))
    assert plain.regions is None
    assert "region" not in plain.batch([0])


def test_only_sets_with_regions_are_told_apart_by_them(tmp_path: Path) -> None:
    region = np.ones((8, 8), np.uint8)
    folders = {name: tmp_path / name for name in ("none", "empty", "ones", "twos")}
    for folder in folders.values():
        folder.mkdir()
    manifests = {
        "none": pictures(folders["none"], [region] * 6, column="parts"),
        "empty": pictures(folders["empty"], [region] * 6, column="parts"),
        "ones": pictures(folders["ones"], [region] * 6),
        "twos": pictures(folders["twos"], [2 * region] * 6),
    }
    table = pd.read_csv(manifests["empty"])
    table.assign(region="").to_csv(manifests["empty"], index=False)
    prints = {name: Data(path, intensity=FullRange(), size=8).fingerprint for name, path in manifests.items()}
    assert prints["none"] == prints["empty"]
    assert len(set(prints.values())) == 3
    for name in ("none", "empty"):
        prepared(manifests[name], cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache/data").iterdir())) == 3, "two images and the split, the same for both"


@pytest.mark.parametrize(
    ("region", "column", "message"),
    [
        (np.ones((6, 8), np.uint8), "region", r"region_0\.png: its grid is"),
        (np.full((8, 8), 0.5, np.float32), "region", "whole numbers from 0"),
        (np.ones((8, 8), np.uint8), "regions", "rename it to 'region'"),
    ],
)
def test_what_cannot_be_a_region_map_is_refused(tmp_path: Path, region: np.ndarray, column: str, message: str) -> None:
    manifest = pictures(tmp_path, [np.ones((8, 8), np.uint8)] * 3, column)
    if region.dtype == np.float32:
        Image.fromarray(region).save(tmp_path / "region_0.tif")
        manifest.write_text(manifest.read_text().replace("region_0.png", "region_0.tif"))
    else:
        Image.fromarray(region).save(tmp_path / "region_0.png")
    with pytest.raises(DataError, match=message):
        prepared(manifest)


def test_a_region_map_in_a_stack_is_named(tmp_path: Path) -> None:
    lobes = np.random.default_rng(0).integers(0, 6, (6, 8, 8))
    np.savez(tmp_path / "s.npz", images=lobes.astype(np.uint8), lobes=lobes.astype(np.int16))
    rows = [
        {"image": f"s.npz::{k}", "region": f"s.npz::lobes::{k}", "label": 0, "patient": k, "split": SPLITS[k % 3]}
        for k in range(6)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    np.testing.assert_array_equal(prepared(tmp_path / "m.csv").regions, lobes[[0, 3]])
    (tmp_path / "m.csv").write_text((tmp_path / "m.csv").read_text().replace("::lobes::", "::"))
    with pytest.raises(DataError, match=r"name the array, as in s\.npz::lobes::0"):
        prepared(tmp_path / "m.csv")


def test_augmentation_moves_regions_with_masks_and_keeps_their_labels(tmp_path: Path) -> None:
    half = np.zeros((32, 32), np.uint8)
    half[8:20, 6:14], half[8:20, 18:26] = 3, 200
    dataset = prepared(pictures(tmp_path, [half] * 6), size=32)
    batch = Batches(dataset, 2, seed=0)(0) | {"mask": torch.from_numpy(dataset.regions == 200)}
    moved = Augment(rotation=20.0, shift=0.1)(batch, torch.Generator().manual_seed(1))
    assert moved["region"].dtype == torch.int16
    assert set(moved["region"].unique().tolist()) == {0, 3, 200}
    assert torch.equal(moved["region"] == 200, moved["mask"])
    assert not torch.equal(moved["region"], batch["region"])
