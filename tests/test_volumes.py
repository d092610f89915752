"""COIN on volumes and slabs: memory, patches, and whole runs by one key."""

import csv
import json
import math
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import Forks
from small_run import COIN, KIDNEY, forks, place
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from toy import fit

from cfxai.config.compose import compose
from cfxai.errors import ConfigError, DataError
from cfxai.methods.coin import Coin
from cfxai.methods.coin_loss import CoinLoss
from cfxai.nn.discriminators import PatchDiscriminator
from cfxai.nn.generators import ResidualUNet
from cfxai.nn.patches import patchwise

__all__ = ["forks", "place"]  # fixtures

# Gradient checkpointing


def unet(*, checkpoint: bool, dims: int = 3) -> ResidualUNet:
    torch.manual_seed(0)
    made = ResidualUNet(widths=(8, 16, 32), dims=dims, checkpoint=checkpoint)
    for p in made.head.parameters():
        nn.init.normal_(p, std=0.1)  # else the last layer is zero, and so are all other gradients
    return made


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def held(forward: Any) -> int:
    """Bytes that are still allocated after a forward pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        output = forward()
    assert output.requires_grad
    return sum(event.self_cpu_memory_usage for event in recorded.events())


@pytest.mark.parametrize("dims", [2, 3])
def test_checkpointing_changes_no_value_and_no_gradient(dims: int) -> None:
    image = noise(2, 1, *[16] * dims)
    outputs, gradients = [], []
    for checkpoint in (False, True):
        generator, x = unet(checkpoint=checkpoint, dims=dims), image.clone().requires_grad_()
        outputs.append(generator(x))
        outputs[-1].square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in generator.parameters())])
    assert torch.equal(*outputs)
    assert all(a.any() and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_checkpointing_holds_a_fraction_of_the_memory() -> None:
    image = noise(1, 1, 32, 32, 32)
    plain, less = (held(partial(unet(checkpoint=checkpoint), image)) for checkpoint in (False, True))
    assert less < plain / 4


def test_checkpointing_does_nothing_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("recomputation was prepared")

    monkeypatch.setattr("cfxai.nn.generators.recomputed", refuse)
    generator = unet(checkpoint=True)
    with torch.no_grad():
        generator(noise(1, 1, 16, 16, 16))
    with pytest.raises(AssertionError):
        generator(noise(1, 1, 16, 16, 16))


def test_images_that_do_not_fit_the_network_are_one_sentence() -> None:
    with pytest.raises(DataError, match=r"data.size: .* divisible by 8, not 16 x 16 x 12"):
        unet(checkpoint=False)(noise(1, 1, 16, 16, 12))
    with pytest.raises(ConfigError, match="a network for 3-D images was given 2-D ones"):
        unet(checkpoint=False)(noise(1, 1, 16, 16))


# Patches

SIDES = st.lists(st.integers(3, 9), min_size=2, max_size=3)


@settings(max_examples=25)
@given(sides=SIDES, patch=st.integers(3, 12), overlap=st.floats(0, 0.6), count=st.integers(1, 2))
def test_patches_of_the_identity_are_the_image_itself(sides: list[int], patch: int, overlap: float, count: int) -> None:
    image, told = noise(count, 1, *sides), torch.zeros(count, dtype=torch.long)
    assert torch.equal(patchwise(lambda x, condition: x, image, told, patch, overlap), image)


@settings(max_examples=20)
@given(sides=SIDES, more=st.integers(0, 5), overlap=st.floats(0, 0.9))
def test_a_patch_as_large_as_the_image_is_one_pass(sides: list[int], more: int, overlap: float) -> None:
    image, told = noise(2, 1, *sides), torch.tensor([0, 1])
    whole = lambda x, condition: (x * 1.1 + x.mean() + condition.sum()).tanh()  # noqa: E731
    for patch in (None, max(sides) + more, [side + more for side in sides]):
        assert torch.equal(patchwise(whole, image, told, patch, overlap), whole(image, told))


@settings(max_examples=15)
@given(sides=SIDES, patch=st.integers(3, 8), overlap=st.floats(0, 0.6))
def test_patches_of_a_pixelwise_generator_agree_with_the_whole_image(
    sides: list[int], patch: int, overlap: float
) -> None:
    image, told = noise(3, 2, *sides), torch.tensor([0, 1, 2])
    pixelwise = lambda x, condition: x * (0.2 + 0.3 * condition.view(-1, *[1] * (x.ndim - 1)))  # noqa: E731
    found = patchwise(pixelwise, image, told, patch, overlap)
    torch.testing.assert_close(found, pixelwise(image, told), atol=1e-6, rtol=0)


def test_overlapping_patches_are_blended_by_gaussian_weights() -> None:
    """Against sums over patches written out, for a generator that sees where a patch ends."""
    image, told, calls = noise(1, 1, 6, 10), torch.tensor([1]), []

    def generator(x: Tensor, condition: Tensor) -> Tensor:
        calls.append(tuple(x.shape[2:]))
        return (x + x.mean()).clamp(-1, 1)

    found = patchwise(generator, image, told, [4, 4], 0.5)
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    bell = torch.exp(-((torch.arange(4) - 1.5) ** 2) / (2 * (0.125 * 4) ** 2))
    for top, left in product((0, 2), (0, 2, 4, 6)):
        cell = (..., slice(top, top + 4), slice(left, left + 4))
        part, weight = image[cell], (bell[:, None] * bell).clamp(min=1e-3)  # MONAI's least weight
        total[cell] += weight * ((part + part.mean()).clamp(-1, 1) - part)
        weights[cell] += weight
    torch.testing.assert_close(found, image + total / weights, atol=1e-3, rtol=0)
    assert calls == [(4, 4)] * 8


def test_patches_stay_in_range_and_work_with_the_real_generator() -> None:
    generator, image, told = unet(checkpoint=False).eval(), noise(1, 1, 32, 16, 24), torch.tensor([1])
    with torch.no_grad():
        whole, patched = generator(image, told), patchwise(generator, image, told, 16, 0.5)
    assert patched.abs().max() <= 1
    assert 0 < (patched - whole).abs().mean() < (whole - image).abs().mean()


@pytest.mark.parametrize(("patch", "overlap"), [(0, 0.2), ([8, 8], 0.2), (4, 1.0), (4, -0.1)])
def test_patches_out_of_range_are_refused(patch: Any, overlap: float) -> None:
    with pytest.raises(ConfigError, match=r"^method\.(patch|overlap): "):
        patchwise(lambda x, c: x, noise(1, 1, 8, 8, 8), torch.tensor([0]), patch, overlap)


# Training on volumes


class Bulk(nn.Module):
    """Abnormal from about thirty bright voxels on, by their sum."""

    def forward(self, image: Tensor) -> Tensor:
        z = (image - 0.2).relu().flatten(1).sum(1) / 4 - 3
        return torch.stack([torch.zeros_like(z), z], 1)


def balls(step: int, size: int = 8) -> dict[str, Any]:
    """Dark noisy cubes of 16 voxels; every second one has a bright ball of radius 3."""
    random = torch.Generator().manual_seed(step)
    image = torch.rand(size, 1, 16, 16, 16, generator=random) * 0.4 - 0.9
    grid = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    centre = torch.rand(size, 3, generator=random) * 8 + 4
    mask = ((grid[None] - centre[..., None, None, None]) ** 2).sum(1) <= 9
    mask &= (torch.arange(size) % 2 == 1).view(-1, 1, 1, 1)
    image[:, 0][mask] = 0.7
    return {"image": image, "label": torch.arange(size) % 2, "mask": mask, "id": [str(i) for i in range(size)]}


def test_coin_learns_to_remove_a_ball_from_a_volume(tmp_path: Path) -> None:
    torch.manual_seed(0)
    coin = Coin(
        Bulk(),
        ResidualUNet(widths=(8, 16), dims=3, checkpoint=True),
        discriminator=PatchDiscriminator(widths=(8, 16), dims=3),
        loss=CoinLoss(rec=5.0),
        steps=60,
        learning_rate=5e-3,
        generator_every=1,
        average=0.8,
    )
    fit(coin, tmp_path, batches=balls, steps=60, validate_every=60, checkpoint_every=60)
    with open(tmp_path / "metrics.csv", newline="") as file:
        kl = [float(row["kl"]) for row in csv.DictReader(file) if row["kl"]]
    assert np.mean(kl[-5:]) < 0.3 * np.mean(kl[:5])
    batch = balls(1000)
    found = coin.generate(batch["image"], torch.zeros(8, dtype=torch.long))
    assert Bulk()(found.counterfactual).argmax(1).tolist() == [0] * 8
    inside, outside = found.difference[batch["mask"]].mean(), found.difference[~batch["mask"]].mean()
    assert inside > 10 * outside


# Whole runs

FEW = (
    *("data.phantom.patients=12", "classifier.widths=[4,8]", "classifier_training.steps=12"),
    *("classifier_training.batch_size=4", "classifier_training.validate_every=6"),
    *("metrics.segmentation.resamples=50", "evaluation.panels=3", "evaluation.batch_size=4"),
)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def evaluated(run: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What metrics.json says, and COIN's rows of cases.csv, whose volumes are checked against the files."""
    found = json.loads((run / "evaluation/metrics.json").read_text())
    volumes = {Path(row["image"]).name: row for row in table(run / "manifest.csv") if row["split"] == "test"}
    rows = table(run / "evaluation/cases.csv")
    assert list(rows[0]) == ["explainer", "case", "label", "images", "iou", "dice", "lesion_mm3", "found_mm3"]
    assert {row["explainer"] for row in rows} == {*found["explainers"], "ceiling"}
    rows = [row for row in rows if row["explainer"] == "coin"]
    assert {f"{row['case']}.nii.gz" for row in rows} == volumes.keys()
    for row in rows:
        name = f"{row['case']}.nii.gz"
        labels, mask = nibabel.load(volumes[name]["mask"]), nibabel.load(run / "evaluation/masks" / name)
        assert mask.shape == labels.shape
        assert np.array_equal(mask.affine, labels.affine)
        lesion, marked = labels.get_fdata() == 2, mask.get_fdata() == 1
        voxel = math.prod(labels.header.get_zooms())
        assert float(row["lesion_mm3"]) == pytest.approx(lesion.sum() * voxel)
        assert float(row["found_mm3"]) == pytest.approx(marked.sum() * voxel)
        if row["iou"]:
            assert float(row["iou"]) == pytest.approx((lesion & marked).sum() / (lesion | marked).sum())
    ious = [float(row["iou"]) for row in rows if row["label"] == "1" and row["iou"]]
    coin = found["explainers"]["coin"]
    assert coin["iou_per_case"] == pytest.approx(np.mean(ious))
    assert coin["l1"] > 0, "the generator changes something"
    assert "cases" not in coin
    return found, rows


def test_a_run_on_volumes_by_one_key(forks: Forks, place: Path) -> None:
    forks.run(
        "train",
        "-c",
        KIDNEY,
        "space=volumes",
        *FEW,
        *COIN,
        "generator.checkpoint=true",
        "method.patch=24",
        "run.name=volumes",
    )
    found, rows = evaluated(place / "runs/volumes")
    assert found["images"] == found["patients"] == len(rows) == 2, "whole volumes"
    assert {row["images"] for row in rows} == {"1"}
    assert list(found["explainers"]) == ["coin", "score_cam", "layer_cam"]
    assert found["ceiling"]["iou_per_case"] > 0.4


def test_a_run_on_slabs_by_one_key(forks: Forks, place: Path) -> None:
    """Every slice is judged and no pixel is resampled, so that the slices of a case add up to its volume."""
    small = ("data.phantom.size=64", "data.phantom.spacing=6.0", "data.phantom.slices=6", "data.size=32")
    every = ("data.phantom.slice_thickness=16.0", "data.min_lesion_area=0", "data.organ_labels=null")
    forks.run(
        "train", "-c", KIDNEY, "space=slabs", *small, *every, *FEW, *COIN, "data.min_organ_area=0",
        "evaluation.attributors=[layer_cam]", "run.name=slabs",
    )  # fmt: skip
    config: Any = OmegaConf.load(place / "runs/slabs/config.yaml")
    assert (config.data.neighbours, config.generator.channels) == (1, 3)
    found, rows = evaluated(place / "runs/slabs")
    assert len(rows) == found["patients"] == 2
    assert {row["images"] for row in rows} == {"6"}
    assert found["images"] == 12


def test_the_space_leaves_the_last_word_to_the_user() -> None:
    cfg = compose(Path(KIDNEY), ["space=volumes", "data=nifti", "trainer.batch_size=2", "data.size=64"])
    assert (cfg.data.plane, cfg.data.size, cfg.data.field_of_view) == ("volume", 64, 256.0)
    assert (cfg.trainer.batch_size, cfg.generator.dims) == (2, 3)
    assert "phantom" not in cfg.data
    assert compose(Path(KIDNEY), []).generator.dims == 2
