"""Data as the rest of the framework sees it: splits, labels, filters, the cache, batches and augmentation."""

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

from cfxai.data import assemble
from cfxai.data.augment import Augment
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.data.export import Origin
from cfxai.data.geometry import WHOLE
from cfxai.data.intensity import FullRange, Window
from cfxai.errors import ConfigError, DataError


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """24 pictures [8, 8] of 12 patients in an `.npz`; every second one has a lesion."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (24, 8, 8)).astype(np.uint8)
    mask = np.zeros((24, 8, 8), dtype=np.uint8)
    mask[1::2, 2:6, 2:5] = 1
    np.savez(tmp_path / "s.npz", images=images, mask=mask)
    rows = [{"image": f"s.npz::{k}", "label": k % 2, "patient": f"p{k // 2}"} for k in range(24)]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Six volumes of 10 slices, 1 x 1 x 5 mm; slices 2-5 show 64 mm² of organ, 4 and 5 a lesion of 4 and 16 mm²."""
    for case in range(6):
        labels = np.zeros((16, 16, 10), dtype=np.uint8)
        labels[4:12, 4:12, 2:6] = 1
        labels[4:6, 4:6, 4] = 2
        labels[4:8, 4:8, 5] = 2
        hounsfield = np.random.default_rng(case).normal(40, 10, labels.shape) - 80.0 * (labels == 2)
        affine = np.diag([1.0, 1.0, 5.0, 1.0])
        for folder, values in {
            "image": hounsfield,
            "mask": labels,
            "healthy": hounsfield + 80.0 * (labels == 2),
        }.items():
            (tmp_path / f"{case}").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / f"{case}/{folder}.nii.gz")
    rows = [
        {role: f"{case}/{role}.nii.gz" for role in ("image", "mask", "healthy")} | {"patient": case}
        for case in range(6)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


def pictures(manifest: Path, **settings: Any) -> Data:
    return Data(manifest, **{"intensity": FullRange(), "size": 4, "cache": manifest.parent / "cache"} | settings)


def slices(manifest: Path, **settings: Any) -> Data:
    return Data(
        manifest, **{"intensity": Window(-160.0, 240.0), "size": 16, "cache": manifest.parent / "cache"} | settings
    )


def test_pictures_are_block_means_in_unit_range(stack: Path) -> None:
    data = pictures(stack)
    source = np.load(stack.parent / "s.npz")
    for name in ("train", "val", "test"):
        split = data.split(name)
        rows = [int(identity.removeprefix("s-")) for identity in split.ids]
        blocks = source["images"][rows].reshape(-1, 4, 2, 4, 2).mean((2, 4))
        np.testing.assert_allclose(split.images[:, 0], blocks / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(split.masks, source["mask"][rows].reshape(-1, 4, 2, 4, 2).mean((2, 4)) >= 0.5)
        np.testing.assert_array_equal(split.labels, np.array(rows) % 2)
        assert split.groups == [f"p{row // 2}" for row in rows]
    assert data.channels == 1
    assert not set(data.split("train").groups) & set(data.split("test").groups)


def test_volumes_become_labelled_slices(volumes: Path) -> None:
    data = slices(volumes, lesion_labels=[2], organ_labels=[1, 2], min_organ_area=60.0, min_lesion_area=10.0)
    split = data.split("train")
    assert [identity.split("-", 1)[1] for identity in split.ids[:3]] == ["axial-002", "axial-003", "axial-005"]
    assert split.labels.tolist() == [0, 0, 1] * (len(split) // 3)
    assert split.masks is not None
    assert split.masks.reshape(len(split), -1).sum(1).tolist() == [0, 0, 16] * (len(split) // 3)
    assert split.healthy is not None
    changed = np.abs(split.images - split.healthy)[:, 0] > 0.2
    np.testing.assert_array_equal(changed, split.masks)
    assert "4 slices with a lesion smaller than data.min_lesion_area" in data.notes[-1]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 10),
        ({"slice_step": 3}, 4),
        ({"slice_range": [0.2, 0.5]}, 3),
        ({"plane": "coronal"}, 16),
        ({"plane": "volume"}, 1),
        ({"plane": "sagittal_volume"}, 1),
    ],
)
def test_planes_and_positions(volumes: Path, settings: dict[str, Any], count: int) -> None:
    split = slices(volumes, **settings).split("test")
    assert len(split) == count
    assert split.images.shape[2:] == (16,) * (3 if "volume" in settings.get("plane", "") else 2)


def test_organ_masks_lie_in_batches_when_asked_for(volumes: Path) -> None:
    filtered = {"lesion_labels": [2], "organ_labels": [1, 2], "min_organ_area": 60.0}
    assert "organ" not in slices(volumes, **filtered).split("train").batch([0])
    for settings in (filtered, {"lesion_labels": [2], "organ_labels": [1, 2]}):
        split = slices(volumes, **settings, organ_masks=True).split("train")
        batch = split.batch(range(len(split)))
        organ = batch["organ"]
        assert organ.dtype == torch.bool
        area = torch.tensor([64 if 2 <= number < 6 else 0 for number in split.origin.slices])
        assert torch.equal(organ.flatten(1).sum(1), area)
        assert organ[batch["mask"]].all()


def test_a_filter_that_leaves_nothing_is_named(volumes: Path) -> None:
    with pytest.raises(DataError, match=r"train split is empty: .*\d+ slices with less organ than data"):
        slices(volumes, organ_labels=[1], min_organ_area=1e4).split("train")


def test_masks_and_images_must_share_a_grid(volumes: Path) -> None:
    image = nib.load(volumes.parent / "0/mask.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), volumes.parent / "0/mask.nii.gz")
    with pytest.raises(DataError, match=r"0/mask\.nii\.gz: lies up to 3\.0 mm off the grid"):
        [slices(volumes).split(name) for name in ("train", "val", "test")]


def test_nothing_is_prepared_twice_and_a_damaged_cache_is_mended(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.array(pictures(stack).split("train").images)
    monkeypatch.setattr(assemble, "prepare", lambda *_: pytest.fail("prepared again"))
    np.testing.assert_array_equal(pictures(stack).split("train").images, expected)
    monkeypatch.undo()
    for file in (stack.parent / "cache/data").glob("*/images.npy"):
        content = bytearray(file.read_bytes())
        content[-3] ^= 255
        file.write_bytes(content)
    np.testing.assert_array_equal(pictures(stack).split("train").images, expected)
    assert not pictures(stack).split("train").images.flags.writeable


def test_fingerprint_changes_with_anything_that_matters_and_only_then(stack: Path) -> None:
    first = pictures(stack).fingerprint
    table = pd.read_csv(stack)
    table.iloc[::-1].to_csv(stack.parent / "reversed.csv", index=False)
    table.assign(label=1 - table["label"]).to_csv(stack.parent / "other.csv", index=False)
    assert pictures(stack.parent / "reversed.csv").fingerprint == first
    changed = {pictures(stack.parent / "other.csv"), pictures(stack, size=8), pictures(stack, seed=3)}
    assert first not in {data.fingerprint for data in changed}


def test_lock_names_every_file_its_sum_and_split(stack: Path) -> None:
    lock = pictures(stack).manifest_lock()
    assert len(lock) == 24
    assert set(lock["split"]) == {"train", "val", "test"}
    assert lock["sha256"].str.fullmatch("[0-9a-f]{64}").all()


def test_pictures_export_as_png_of_the_original_size(tmp_path: Path) -> None:
    for k in range(8):
        Image.fromarray(np.full((10, 14), k * 20, dtype=np.uint8)).save(tmp_path / f"{k}.png")
    rows = [{"image": f"{k}.png", "label": k % 2, "patient": k} for k in range(8)]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    data = pictures(tmp_path / "m.csv")
    split = data.split("test")
    masks = torch.zeros(len(split), 4, 4, dtype=torch.bool)
    masks[:, 1:3] = True
    (path, *_) = data.export_masks("test", masks, tmp_path / "out")
    written = np.asarray(Image.open(path))
    assert written.shape == (10, 14)
    assert path.stem == split.ids[0]
    np.testing.assert_array_equal(np.unique(written[3:7]), [255])
    np.testing.assert_array_equal(np.unique(written[[0, 1, 8, 9]]), [0])


def test_colour_and_grey_do_not_mix_unless_told(tmp_path: Path) -> None:
    for k in range(8):
        Image.fromarray(np.full((4, 4, 3) if k == 3 else (4, 4), k, dtype=np.uint8)).save(tmp_path / f"{k}.png")
    rows = [
        {"image": f"{k}.png", "label": k % 2, "patient": k, "split": ("train", "val", "test")[k % 3]} for k in range(8)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(DataError, match=r"data\.channels=1"):
        pictures(tmp_path / "m.csv").split("train")
    split = pictures(tmp_path / "m.csv", channels=1).split("train")
    np.testing.assert_allclose(split.images[1], 3 / 127.5 - 1, atol=1e-6)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'axial'"):
        pictures(Path("m.csv"), plane="axail")
    with pytest.raises(DataError, match=r"data\.manifest is not set: run `python tools/make_manifest\.py"):
        Data(intensity=FullRange(), size=4).split("train")
    with pytest.raises(ConfigError, match="only work together"):
        pictures(Path("m.csv"), organ_labels=[1])
    for setting in ({"min_organ_area": 5.0}, {"organ_masks": True}):
        with pytest.raises(ConfigError, match=r"data\.organ_labels only work together"):
            pictures(Path("m.csv"), **setting)


def items(labels: list[int]) -> Dataset:
    count = len(labels)
    images = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 6, 6), np.float32) / count
    return Dataset(
        images, np.array(labels), np.zeros((count, 6, 6), bool), None, [str(k) for k in range(count)], ["p"] * count,
        Origin([], [], {}),
    )  # fmt: skip


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 13), st.integers(0, 5))
def test_balanced_batches_are_balanced_and_use_every_image(normal: int, abnormal: int, size: int, seed: int) -> None:
    batches = Batches(items([0] * normal + [1] * abnormal), size, seed=seed)
    drawn = [index for step in range(60) for index in batches.indices(step)]
    first = [index for index in drawn if index < normal]
    assert abs(len(drawn) - 2 * len(first)) <= 1
    for start in range(0, len(first) - normal + 1, normal):
        assert sorted(first[start : start + normal]) == list(range(normal))
    again = Batches(items([0] * normal + [1] * abnormal), size, seed=seed)
    assert again.indices(59) == batches.indices(59)


def test_a_class_that_is_missing_cannot_be_balanced() -> None:
    with pytest.raises(DataError, match="All 3 images of a split have label 0"):
        Batches(items([0, 0, 0]), 2, seed=0)
    assert len(Batches(items([0, 0, 0]), 2, seed=0, balanced=False)(0)["id"]) == 2


def test_batches_can_be_balanced_by_something_else_than_labels() -> None:
    batches = Batches(items([0, 1] * 5), 6, seed=0, strata=np.array([2] * 8 + [0, 1]))
    assert {index for step in range(3) for index in batches.indices(step)[2::3]} <= set(range(8))
    assert [index for index in batches.indices(0) if index >= 8] == [8, 9, 8, 9]
    with pytest.raises(DataError, match="balanced_by"):
        Batches(items([0, 1]), 2, seed=0, strata=np.array([1, 1]))


def test_augmentation_is_a_function_of_seed_and_step() -> None:
    batches = Batches(items([0, 1] * 8), 4, seed=0, augment=Augment())
    global_state = torch.get_rng_state()
    first, other = batches(7), batches(8)
    torch.testing.assert_close(batches(7)["image"], first["image"], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].abs().max() <= 1


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (10, 12, 14)])
def test_masks_move_with_images(shape: tuple[int, ...]) -> None:
    image = torch.full((32, 1, *shape), -1.0)
    image[(..., *[slice(side // 4, side // 2) for side in shape])] = 1.0
    batch = {"image": image, "mask": image[:, 0] > 0, "organ": image[:, 0] > 0}
    moved = Augment(contrast=0.0, brightness=0.0)(batch, torch.Generator().manual_seed(0))
    agree = (moved["mask"] == (moved["image"][:, 0] > 0)).float().mean()
    assert agree > 0.97
    assert torch.equal(moved["organ"], moved["mask"])
    assert not torch.equal(moved["mask"], batch["mask"])
    still = Augment(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(still["image"], image)
    assert torch.equal(still["mask"], batch["mask"])


@pytest.mark.parametrize(
    ("plane", "axis"),
    [("axial", 3), ("coronal", 3), (None, 3), ("sagittal", None), ("volume", 4), ("sagittal_volume", 2)],
)
def test_mirror_images_have_left_and_right_exchanged(plane: str | None, axis: int | None) -> None:
    image = torch.rand(32, 1, *[8] * (3 if plane in WHOLE else 2))
    mirror = Augment(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, plane=plane)
    moved = mirror({"image": image}, torch.Generator())["image"]
    torch.testing.assert_close(moved, image if axis is None else image.flip(axis))


@pytest.mark.parametrize("shape", [(64, 64), (20, 24, 28)])
def test_holes_are_black_discs_in_some_images_and_spare_masks(shape: tuple[int, ...]) -> None:
    image = torch.rand(64, 2, *shape) * 2 - 1
    batch = {"image": image, "healthy": image / 2, "mask": image[:, 0] > 0, "label": torch.arange(64)}
    still = {"flip": 0.0, "rotation": 0.0, "shift": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}
    changed = Augment(**still, holes=0.5)(batch, torch.Generator().manual_seed(0))
    hole = (changed["image"] - image).abs().amax(1) > 1e-5
    assert (changed["image"].amax(1)[hole] == -1).all()
    assert (changed["healthy"].amax(1)[hole] == -1).all()
    assert torch.equal(changed["mask"], batch["mask"])
    assert torch.equal(changed["label"], batch["label"])
    share = hole.flatten(1).float().mean(1)
    assert 0.3 < (share > 0).float().mean() < 0.7
    largest = torch.pi * 0.12**2 if len(shape) == 2 else 4 / 3 * torch.pi * 0.12**3
    assert share.max() < 1.2 * largest
    none = Augment(**still)(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(none["image"], image)
