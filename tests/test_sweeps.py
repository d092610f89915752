"""Sweeps over severity: what is measured in them, what is drawn, and a user's image at any level."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil
from scipy.stats import spearmanr
from torch import Tensor, nn
from untrained_run import Gradual, untrained_run

from cfxai.config.build import Parts
from cfxai.data.dataset import Dataset
from cfxai.data.export import Origin
from cfxai.errors import ConfigError
from cfxai.evaluation import evaluate_parts, load_config, settings_of
from cfxai.ruler_judging import balanced_spearman
from cfxai.run.directory import Run
from cfxai.settings import Settings
from cfxai.sweeps import (
    LESION_FREE,
    LEVEL_0,
    RULER,
    Swept,
    lesions,
    rank_correlations,
    sweep_abnormal,
    usual_levels,
    write_sweep,
)
from cfxai.viz import animation

CPU = torch.device("cpu")
SIDE = 12
BACKGROUND, LESION = -0.5, 0.5


class Growing:
    """A lesion of exactly (level / worst * 8)² pixels, `shrinking` the other way round; on a dull background."""

    def __init__(self, worst: float = 1.0, *, shrinking: bool = False, ignoring: bool = False) -> None:
        self.worst, self.shrinking, self.ignoring = worst, shrinking, ignoring

    def levels(self, count: int) -> Tensor:
        return torch.linspace(0, self.worst, count)

    def severity(self, image: Tensor) -> Tensor:
        return torch.zeros(len(image))

    def sweep(self, image: Tensor, levels: Tensor) -> Tensor:
        return torch.stack([self._at(image, float(level) / self.worst) for level in levels])

    def _at(self, image: Tensor, share: float) -> Tensor:
        share = 0.5 if self.ignoring else 1 - share if self.shrinking else share
        found, side = torch.full_like(image, BACKGROUND), round(8 * share)
        found[..., 1 : 1 + side, 1 : 1 + side] = LESION
        return found


class NoOrder(Growing):
    def sweep(self, image: Tensor, levels: Tensor) -> Tensor:
        raise ConfigError("A multinomial head has no grade.")


class Perfect(nn.Module):
    """A ruler that sees what is drawn as a lesion."""

    def forward(self, image: Tensor) -> Tensor:
        return image


class Bright(nn.Module):
    """p(abnormal) = sigmoid(mean)."""

    def forward(self, image: Tensor) -> Tensor:
        z = image.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(z), z], 1)


def dataset(n: int = 6, *, healthy: bool = True, depth: int = 0, organs: bool = False) -> Dataset:
    shape = (depth, SIDE, SIDE) if depth else (SIDE, SIDE)
    masks = np.zeros((n, *shape), bool)
    masks[(slice(None), 2, slice(1, 4), slice(1, 4)) if depth else (slice(None), slice(1, 4), slice(1, 4))] = True
    organ = np.zeros((n, *shape), bool)
    organ[..., :3] = True  # columns 1 and 2 of the lesion
    return Dataset(
        images=np.where(masks[:, None], LESION, BACKGROUND).astype(np.float32),
        labels=np.ones(n, np.int64),
        masks=masks,
        healthy=np.full((n, 1, *shape), BACKGROUND, np.float32) if healthy else None,
        ids=[f"p{i // 2}/image-{i}" for i in range(n)],
        groups=[f"p{i // 2}" for i in range(n)],
        origin=Origin(["a"] * n, list(range(n)), {}),
        organs=organ if organs else None,
    )


def swept(explainer: Any, data: Dataset, ruler: nn.Module | None = None, **asked: Any) -> Swept:
    found = sweep_abnormal(
        "toy", explainer, Bright(), data, range(len(data)), CPU,
        settings=Settings(**asked), ruler=ruler,
    )  # fmt: skip
    assert found is not None
    return found


# Measuring


@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("batch_size", [1, 20, 64])
def test_a_lesion_that_grows_with_the_level(healthy: bool, batch_size: int) -> None:
    found = swept(Growing(), dataset(healthy=healthy), batch_size=batch_size)
    assert found.reference == (LESION_FREE if healthy else LEVEL_0)
    assert found.levels == pytest.approx(np.linspace(0, 1, 9))
    for image in found.images:
        assert image.sizes.tolist() == [side**2 for side in range(9)]
        assert image.size == 9
        mean = BACKGROUND + image.sizes / SIDE**2 * (LESION - BACKGROUND)
        assert image.after == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-6)
        assert image.before == pytest.approx(1 / (1 + np.exp(-(BACKGROUND + 9 / SIDE**2))), abs=1e-6)
    metrics = found.metrics()
    assert metrics["sweep_spearman"] == metrics["sweep_spearman_per_image"] == pytest.approx(1)
    assert metrics["sweep_spearman_ci"] == pytest.approx([1, 1])
    assert metrics["sweep_images"] == 6
    assert metrics["ruler_dice"] is metrics["ruler_spearman"] is None
    json.dumps(metrics)


def test_a_lesion_that_shrinks_and_one_that_ignores_the_level() -> None:
    metrics = swept(Growing(shrinking=True), dataset()).metrics()
    assert metrics["sweep_spearman"] == metrics["sweep_spearman_per_image"] == pytest.approx(-1)
    # Measured from level 0, where the lesion is largest, less and less of it is left, and that is a change too.
    assert swept(Growing(shrinking=True), dataset(healthy=False)).metrics()["sweep_spearman"] == pytest.approx(1)
    for healthy in (True, False):
        metrics = swept(Growing(ignoring=True), dataset(healthy=healthy)).metrics()
        assert metrics["sweep_spearman"] is metrics["sweep_spearman_ci"] is None
        assert metrics["sweep_spearman_per_image"] == 0


def test_a_lesion_is_brighter_than_fat_and_darker_than_the_organ() -> None:
    healthy = torch.zeros(1, 1, 4, 4)
    rendered = healthy.clone()
    rendered[..., 0, 1:] = torch.tensor([0.5, -0.5, 0.1])  # the last, 5 % of the range, is not visible
    found = lesions(rendered, rendered, {"healthy": healthy})
    assert found.nonzero().tolist() == [[0, 0, 1], [0, 0, 2]]
    organ = torch.ones(1, 4, 4, dtype=torch.bool)
    organ[..., 1] = False
    assert lesions(rendered, rendered, {"healthy": healthy, "organ": organ}).nonzero().tolist() == [[0, 0, 2]]


def test_the_level_that_is_the_reference_itself_does_not_count() -> None:
    """Else noise would have a positive rho, as its size at level 0 is 0."""

    class Noise(Growing):
        def _at(self, image: Tensor, share: float) -> Tensor:
            random = torch.Generator().manual_seed(round(1000 * share))
            return image + torch.rand(image.shape, generator=random)

    found = swept(Noise(), dataset(n=8, healthy=False))
    sizes = np.stack([image.sizes for image in found.images])
    assert (sizes[:, 0] == 0).all()
    expected = spearmanr(np.tile(found.levels[1:], 8), sizes[:, 1:].ravel()).statistic
    assert found.metrics()["sweep_spearman"] == pytest.approx(expected)


def test_only_the_organ_is_measured() -> None:
    for image in swept(Growing(), dataset(organs=True)).images:
        assert image.sizes.tolist() == [side * min(side, 2) for side in range(9)]


def test_a_ruler_measures_every_level_and_every_pixel() -> None:
    """Level 0 too, although nothing tells what is lesion-free; and outside the organ."""

    class FromFour(Growing):
        def _at(self, image: Tensor, share: float) -> Tensor:
            return super()._at(image, 0.5 + share / 2)

    data = dataset(healthy=False, organs=True)
    found = swept(FromFour(), data, Perfect())
    assert found.reference == RULER
    for image in found.images:
        assert image.size == 9
        assert image.sizes.tolist() == [round(8 * (0.5 + level / 2)) ** 2 for level in found.levels]
    metrics = found.metrics()
    sizes = np.stack([image.sizes for image in found.images])
    expected = spearmanr(np.tile(found.levels, 6), sizes.ravel()).statistic
    assert metrics["sweep_spearman"] == pytest.approx(expected)
    assert metrics["ruler_dice"] == 1
    assert metrics["ruler_spearman"] is None, "no grades"
    assert swept(Growing(), dataset(depth=4), Perfect()).metrics()["sweep_spearman"] == pytest.approx(1)


def test_the_ruler_is_judged_on_all_real_images() -> None:
    """Grades 0 to 3 have lesions of 0, 1, 4 and 9 pixels; of the second image the ruler misses all."""
    data = dataset(n=8)
    grades = np.arange(8) % 4
    for index, grade in enumerate(grades):
        data.masks[index] = False
        data.masks[index, :grade, :grade] = True
    images = np.where(data.masks[:, None], LESION, BACKGROUND).astype(np.float32)
    images[1] = BACKGROUND
    graded = replace(data, images=images, labels=(grades > 0).astype(np.int64), grades=grades.astype(np.int64))
    found = swept(Growing(), graded, Perfect(), sweep_images=2, batch_size=3).metrics()
    assert found["sweep_images"] == 2
    assert found["ruler_dice"] == pytest.approx(2 * 27 / (27 + 28))
    assert found["ruler_spearman"] == pytest.approx(spearmanr([0, 0, 4, 9, 0, 1, 4, 9], grades).statistic)
    assert found["mask_spearman"] == pytest.approx(1)


def test_rare_grades_count_as_much_as_frequent_ones() -> None:
    sizes, grades = np.array([0, 0, 3, 1, 5, 2, 9, 4]), np.array([0, 0, 0, 0, 1, 1, 2, 3])
    times = 4 // np.bincount(grades)[grades]
    expected = spearmanr(np.repeat(sizes, times), np.repeat(grades, times)).statistic
    assert balanced_spearman(sizes.tolist(), grades) == pytest.approx(expected)
    assert balanced_spearman([7] * 8, grades) is None
    assert balanced_spearman(sizes.tolist(), np.zeros(8, int)) is None


def test_what_was_measured_is_written_beside_it(tmp_path: Path) -> None:
    by_ruler, by_change = swept(Growing(), dataset(), Perfect(), panels=0), swept(Growing(), dataset(), panels=0)
    for name, found, said in (
        ("a", by_ruler, "as found by the ruler"),
        ("b", by_change, "difference from the true lesion-free image"),
    ):
        write_sweep(tmp_path / name, found)
        assert pd.read_csv(tmp_path / name / "sizes.csv")["measured"].str.contains(said).all()
        assert said in found.summary()
    assert "Dice 1.000" in by_ruler.summary()


def test_grades_are_swept_whole_and_half() -> None:
    for worst, expected in ((4, np.arange(0, 4.5, 0.5)), (3, np.arange(0, 3.5, 0.5)), (10, np.linspace(0, 10, 9))):
        assert usual_levels(Growing(worst)).numpy() == pytest.approx(expected)


def test_a_method_without_a_scale_after_all_and_a_split_without_abnormal_images(caplog: Any) -> None:
    for explainer, indices, said in ((NoOrder(), [0], "no grade"), (Growing(), [], "no abnormal images")):
        found = sweep_abnormal(
            "toy", explainer, Bright(), dataset(), indices, CPU, settings=Settings()
        )  # fmt: skip
        assert found is None
        assert said in caplog.text


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=6),
    seed=st.integers(0, 3),
)
def test_correlations_are_scipys(sizes: list[list[int]], seed: int) -> None:
    levels, table = np.array([0.0, 0.5, 1.0, 1.5]), np.array(sizes)
    patients = [f"p{i // 2}" for i in range(len(sizes))]
    found = rank_correlations(levels, table, patients, resamples=50, seed=seed)
    if (table == table[0, 0]).all():
        assert found["sweep_spearman"] is None
    else:
        expected = spearmanr(np.tile(levels, len(table)), table.ravel()).statistic
        assert found["sweep_spearman"] == pytest.approx(expected, abs=1e-9)
    own = [0.0 if np.ptp(row) == 0 else spearmanr(levels, row).statistic for row in table]
    assert found["sweep_spearman_per_image"] == pytest.approx(np.mean(own), abs=1e-9)


def test_the_interval_is_a_bootstrap_over_patients() -> None:
    """All images of a patient are drawn together: brute force with scipy, on samples of its own."""
    random = np.random.default_rng(0)
    levels, patient = np.arange(5.0), np.repeat(np.arange(10), 2)
    sizes = (levels * random.normal(2, 2, 10)[patient, None] + random.normal(0, 3, (20, 5))).round().astype(int)
    found = rank_correlations(levels, sizes, [str(p) for p in patient])
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(patient == p) for p in random.integers(10, size=10)])
        drawn.append(spearmanr(np.tile(levels, len(rows)), sizes[rows].ravel()).statistic)
    assert found["sweep_spearman_ci"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.05)
    assert rank_correlations(levels, sizes[:2], ["a", "a"])["sweep_spearman_ci"] is None


# Pictures


@pytest.mark.parametrize("depth", [0, 4])
def test_the_pictures_that_are_kept(depth: int) -> None:
    found = swept(Growing(), dataset(depth=depth), sweep_images=4, panels=2)
    assert [image.name for image in found.images] == [f"p{i // 2}/image-{i}" for i in (0, 2, 3, 5)]
    shown = [image for image in found.images if image.picture is not None]
    assert [image.name for image in shown] == ["p0/image-0", "p2/image-5"]
    for image in shown:
        assert image.picture is not None
        assert (image.picture > 0.5).sum() == 9, "of a volume, the slice with the lesion"
        assert [int((picture > 0.5).sum()) for picture in image.pictures] == [side**2 for side in range(9)]


def test_the_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", swept(Growing(), dataset(), sweep_images=4, panels=1))
    written = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert written == {"overview.png", "sizes.csv", "p0-image-0.png", "p0-image-0.gif"}
    table = pd.read_csv(tmp_path / "sweep/sizes.csv")
    assert len(table) == 4 * 9
    assert spearmanr(table["level"], table["pixels"]).statistic == pytest.approx(1)


@pytest.mark.parametrize("colours", [(), (3,)])
def test_an_animation_goes_there_and_back(tmp_path: Path, colours: tuple[int, ...]) -> None:
    shades = [0.0, 0.4, 0.8, 1.0]
    animation(tmp_path / "x.gif", [np.full((16, 24, *colours), s) for s in shades], [f"{s}" for s in shades])
    with Pil.open(tmp_path / "x.gif") as gif:
        assert gif.info["loop"] == 0
        found = []
        for number in range(gif.n_frames):
            gif.seek(number)
            found.append(np.asarray(gif.convert("L"))[10, 10] / 255)
    assert found == pytest.approx([*shades, 0.8, 0.4], abs=0.02)  # a palette of 256 colours


def test_an_evaluation_sweeps_a_method_that_can(tmp_path: Path) -> None:
    run = Run(untrained_run(tmp_path))
    cfg = load_config(run)
    cfg.data.phantom.patients = 5
    parts = Parts(cfg, method=Gradual())
    asked = settings_of(cfg, sweep_images=2, panels=0, attributors=[], skip_fid=True, threshold_images=4)
    found = evaluate_parts(parts, cfg, run, asked)["explainers"]["dim"]
    assert found == json.loads((run.evaluation / "metrics.json").read_text())["explainers"]["dim"]
    assert (found["sweep_images"], found["sweep_reference"]) == (2, LESION_FREE)
    table = pd.read_csv(run.evaluation / "sweep/sizes.csv")
    assert found["sweep_spearman"] == pytest.approx(spearmanr(table["level"], table["pixels"]).statistic)
    assert [path.name for path in (run.evaluation / "sweep").iterdir()] == ["sizes.csv"], "no panels, no pictures"


# A user's image
