"""Scores of regions, against sums by hand and the laws that they must keep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cfxai.errors import DataError, NumericsError
from cfxai.regions.boxes import Boxes
from cfxai.regions.grid import Grid
from cfxai.regions.rings import Rings
from cfxai.regions.scores import area_pool, clr, ilr, published_scores, scores, with_rest

SEEDS = st.integers(0, 10_000)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def soft(*shape: int, seed: int) -> Tensor:
    """Maps that partition the image, other ones for each image."""
    return noise(*shape, seed=seed).mul(2).softmax(1)


def test_numbers_by_hand() -> None:
    saliency = torch.tensor([[[3.0, -1.0], [0.0, 4.0]]])
    regions = torch.tensor([[[[1, 1], [0, 0]], [[0, 0], [0.5, 0.5]], [[0, 0], [0, 0]]]]).float()
    found = scores(saliency, regions)
    nan = float("nan")
    expected = {
        "positive": [3, 2, nan],
        "negative": [1, 0, nan],
        "mean": [1, 2, nan],
        "share": [4 / 8, 2 / 8, nan],
        "enrichment": [0, np.log(0.25 / 0.25), nan],
        "area": [0.5, 0.25, 0],
    }
    for name, values in expected.items():
        assert getattr(found, name)[0].tolist() == pytest.approx(values, nan_ok=True), name
    assert found.empty.tolist() == [0, 0, 1]


@settings(max_examples=40)
@given(SIZES, st.integers(1, 5), st.integers(1, 4), SEEDS)
def test_sums_are_those_of_a_loop_and_shares_of_a_partition_sum_to_1(
    size: tuple[int, int], images: int, count: int, seed: int
) -> None:
    saliency, regions = noise(images, *size, seed=seed), soft(images, count, *size, seed=seed + 1)
    found = scores(saliency, regions)
    for i in range(images):
        for r in range(count):
            m, s = regions[i, r], saliency[i]
            assert float(found.positive[i, r]) == pytest.approx(float((s.clamp(min=0) * m).sum()), abs=1e-5)
            assert float(found.negative[i, r]) == pytest.approx(float(((-s).clamp(min=0) * m).sum()), abs=1e-5)
            assert float(found.mean[i, r]) == pytest.approx(float((s * m).sum() / m.sum()), abs=1e-4)
    assert torch.allclose(found.share.sum(1), torch.ones(images), atol=1e-5)
    assert torch.allclose(found.enrichment, (found.share / found.area).log(), equal_nan=True)


@settings(max_examples=40)
@given(SIZES, SEEDS)
def test_scores_add_up_and_follow_their_regions(size: tuple[int, int], seed: int) -> None:
    saliency, regions = noise(2, *size, seed=seed), soft(2, 4, *size, seed=seed + 1)
    found = scores(saliency, regions)
    merged = scores(saliency, regions[:, :2].sum(1, keepdim=True))
    assert torch.allclose(merged.share[:, 0], found.share[:, :2].sum(1), atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(scores(saliency, regions[:, order]).mean, found.mean[:, order], atol=1e-5)
    louder = scores(saliency * 8, regions)
    assert torch.allclose(louder.share, found.share, atol=1e-5)
    assert torch.allclose(louder.positive, found.positive * 8, atol=1e-4)
    alone = scores(saliency[1:], regions[1:])
    assert torch.allclose(alone.share[0], found.share[1], atol=1e-5)


@pytest.mark.parametrize("regions", [Grid(), Rings(), Boxes(boxes={"a": [0.1, 0.2, 0.7, 0.9], "b": [0, 0, 1, 0.3]})])
def test_a_small_map_and_its_enlargement_score_alike(regions: Grid) -> None:
    small = noise(3, 7, 7, seed=0)
    large = small.repeat_interleave(32, 1).repeat_interleave(32, 2)
    maps = regions({"image": torch.zeros(3, 1, 224, 224)})
    coarse, fine = scores(small, maps), scores(large, maps)
    for name in ("mean", "share", "enrichment", "area"):
        assert torch.allclose(getattr(coarse, name), getattr(fine, name), atol=1e-4), name
    assert torch.allclose(coarse.positive * 32**2, fine.positive, rtol=1e-4)


def test_one_set_of_maps_for_all_images_scores_as_its_copies_do() -> None:
    maps = Grid(rows=2)({"image": torch.zeros(5, 1, 20, 31)})
    saliency = noise(5, 20, 31, seed=1)
    assert torch.allclose(scores(saliency, maps).share, scores(saliency, maps.clone()).share, atol=1e-6)


def test_volumes() -> None:
    maps = Grid(rows=1, columns=1, slabs=2)({"image": torch.zeros(1, 1, 8, 6, 6)})
    saliency = torch.zeros(1, 4, 3, 3)
    saliency[0, 0] = 1
    assert scores(saliency, maps).share.tolist() == [[1, 0]]


@given(st.integers(1, 12), st.integers(1, 12), SEEDS)
def test_area_pooling_is_the_integral_of_a_step_function(length: int, cells: int, seed: int) -> None:
    values = noise(1, 1, length, seed=seed)[0, 0].double()
    fine = values.repeat_interleave(cells).reshape(cells, length).mean(1)  # on the common grid of length * cells
    assert torch.allclose(area_pool(values[None, None], (cells,))[0, 0], fine)


def test_no_number_instead_of_a_wrong_one() -> None:
    regions = Grid()({"image": torch.zeros(2, 1, 6, 6)})
    silent = scores(torch.zeros(2, 6, 6), regions)
    assert silent.share.isnan().all()
    assert silent.enrichment.isnan().all()
    assert (silent.mean == 0).all()
    with pytest.raises(NumericsError, match="NaN"):
        scores(torch.full((2, 6, 6), float("nan")), regions)
    with pytest.raises(DataError, match="volumes"):
        scores(torch.zeros(2, 6, 6, 6), regions)
    one_sided = torch.zeros(2, 6, 6)
    one_sided[:, :, 0] = 1
    assert scores(one_sided, regions).enrichment[0].tolist() == pytest.approx([np.log(3), -np.inf, -np.inf])


def test_published_scores_are_numpys_over_each_third() -> None:
    cam = noise(2, 7, 7, seed=3).abs()
    maps = Grid()({"image": cam[:, None]})
    for statistic, reference in (("mean", np.mean), ("sum", np.sum), ("max", np.max)):
        expected = [[reference(one[:, a:b]) for a, b in ((0, 2), (2, 4), (4, 7))] for one in cam.numpy()]
        assert published_scores(cam, maps, statistic).numpy() == pytest.approx(np.array(expected), rel=1e-5)
    nothing = published_scores(cam, torch.zeros(2, 1, 7, 7), "max")
    assert nothing.isnan().all()


def test_the_rest_completes_a_composition_and_overlaps_have_none() -> None:
    boxes = Boxes(boxes={"a": [0, 0, 0.5, 0.5], "b": [0.6, 0.5, 1, 1]})({"image": torch.zeros(2, 1, 9, 9)})
    share = scores(noise(2, 9, 9, seed=2), with_rest(boxes)).share
    assert share.shape == (2, 3)
    assert torch.allclose(share.sum(1), torch.ones(2))
    with pytest.raises(DataError, match="overlap"):
        with_rest(torch.ones(1, 2, 3, 3))
    with pytest.raises(DataError, match="sum to 1"):
        clr(share[:, :2])


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.lists(st.floats(0.05, 1), min_size=6, max_size=6))
def test_log_ratios_are_isometric_and_free_of_scale(first: list[float], second: list[float]) -> None:
    parts = torch.tensor([first, second[: len(first)]], dtype=torch.float64)
    share = parts / parts.sum(1, keepdim=True)
    logs = parts.log() - parts.log().mean(1, keepdim=True)
    assert torch.allclose(clr(share), logs)
    assert float((ilr(share)[0] - ilr(share)[1]).norm()) == pytest.approx(float((logs[0] - logs[1]).norm()))
    assert ilr(share).shape == (2, len(first) - 1)
    two = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
    assert abs(float(ilr(two))) == pytest.approx(np.log(4) / np.sqrt(2))


def test_a_share_of_0_counts_as_little_and_a_missing_region_leaves_no_composition() -> None:
    found = clr(torch.tensor([[0.0, 0.25, 0.75], [0.5, 0.5, float("nan")]]))
    expected = np.log([1e-4, 0.25 * (1 - 1e-4), 0.75 * (1 - 1e-4)])
    assert found[0].tolist() == pytest.approx((expected - expected.mean()).tolist(), abs=1e-5)
    assert found[1].isnan().all()
