"""Moved regions against every translation and permutation done one by one."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

from cfxai.errors import DataError
from cfxai.regions.statistics.moved import compare_exchanged, compare_translated

IDS = [f"p{i}" for i in range(12)]


def maps(seed: int, images: int = 4, size: tuple[int, ...] = (5, 6), regions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    masks = random.random((images, regions, *size)) < 0.3
    masks[(slice(None), slice(None), *(0 for _ in size))] = True
    return random.random((images, *size)), masks


def rolled(saliency: np.ndarray, mask: np.ndarray) -> dict[tuple[int, ...], float]:
    axes = tuple(range(mask.ndim))
    shifts = product(*(range(length) for length in mask.shape))
    return {shift: float((saliency * np.roll(mask, shift, axes)).sum() / mask.sum()) for shift in shifts}


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 2)])
def test_all_translations_at_once(size: tuple[int, ...]) -> None:
    saliency, masks = maps(0, size=size)
    soft = masks * np.random.default_rng(1).random(masks.shape)
    for j, found in enumerate(compare_translated(saliency, soft, IDS[:4], ["a", "b"])):
        scores = [rolled(image, mask) for image, mask in zip(saliency, soft[:, j], strict=True)]
        assert found.observed == pytest.approx(np.mean([places[(0,) * len(size)] for places in scores]))
        assert found.expected == pytest.approx(np.mean([list(places.values()) for places in scores]))
        assert found.low < found.observed - found.expected < found.high


def test_p_value_counts_every_combination_of_places() -> None:
    saliency, masks = maps(2, size=(2, 3), regions=1)
    found = compare_translated(saliency, masks, IDS[:4], ["a"], draws=20_000)[0]
    places = [list(rolled(image, mask[0]).values()) for image, mask in zip(saliency, masks, strict=True)]
    null = np.array([np.mean(chosen) for chosen in product(*places)])
    assert found.p == pytest.approx((null >= found.observed - 1e-9).mean(), abs=0.015)


def test_only_places_inside_the_body_count() -> None:
    random = np.random.default_rng(3)
    body = np.zeros((8, 20, 20), bool)
    body[:, 3:15, 4:16] = True
    masks = np.zeros((8, 2, 20, 20))
    masks[:, 0, 5:9, 6:9] = 1
    masks[:, 1, 10:14, 10:14] = 1
    saliency = body * (1 + 0.1 * random.random(body.shape)) + masks[:, 1]
    plain = compare_translated(saliency, masks, IDS[:8], ["plain", "bright"])
    inside = compare_translated(saliency, masks, IDS[:8], ["plain", "bright"], body=body)
    assert plain[0].p < 0.01 < 0.05 < inside[0].p  # in the body is not yet in the right place
    assert inside[1].adjusted_p < 0.01
    fits = [
        places
        for places, where in zip(*(rolled(x, masks[0, 1]).values() for x in (saliency[0], body[0] * 1.0)), strict=True)
        if where >= 0.95
    ]
    one = compare_translated(saliency[[0] * 4], masks[[0] * 4], IDS[:4], ["plain", "bright"], body=body[[0] * 4])[1]
    assert one.expected == pytest.approx(np.mean(fits))
    assert "moved about the image" in one.sentence


def test_images_of_a_patient_count_once_and_empty_regions_not_at_all() -> None:
    saliency, masks = maps(4, images=6)
    masks[5, 1] = False
    found = compare_translated(saliency, masks, ["a", "a", "b", "c", "d", "d"], ["a", "b"])[0]
    each = [rolled(image, mask)[0, 0] for image, mask in zip(saliency, masks[:, 0], strict=True)]
    assert found.observed == pytest.approx(np.mean([np.mean(each[:2]), *each[2:5]]))
    assert (found.patients, found.left_out) == (4, 1)


def test_false_positives_of_smooth_maps() -> None:
    random = np.random.default_rng(5)
    masks = np.zeros((6, 1, 12, 12))
    masks[:, :, 2:6, 3:8] = 1
    p = []
    for _ in range(200):
        saliency = gaussian_filter(random.normal(size=(6, 12, 12)), (0, 2, 2), mode="wrap")
        p.append(compare_translated(saliency, masks, IDS[:6], ["a"], draws=199)[0].p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_regions_of_other_patients() -> None:
    saliency, masks = maps(6, images=5)
    ids = ["a", "b", "c", "d", "d"]
    for j, found in enumerate(compare_exchanged(saliency, masks, ids, ["a", "b"], draws=20_000)):
        crossed = np.array([[image[mask].mean() for mask in masks[:, j]] for image in saliency])
        rows = [[0], [1], [2], [3, 4]]
        table = np.array([[crossed[np.ix_(p, q)].mean() for q in rows] for p in rows])
        np.fill_diagonal(table, [np.mean([crossed[i, i] for i in p]) for p in rows])
        null = np.array([np.mean(table[range(4), order]) for order in permutations(range(4))])
        assert found.observed == pytest.approx(null[0])
        assert found.p == pytest.approx((null >= null[0] - 1e-12).mean(), abs=0.015)
        assert found.expected == pytest.approx((table.sum() - np.trace(table)) / 12)


def test_maps_that_follow_each_patients_region() -> None:
    random = np.random.default_rng(7)
    masks = np.zeros((12, 1, 16, 16))
    for mask, row in zip(masks[:, 0], random.integers(0, 12, 12), strict=True):
        mask[row : row + 4, 6:10] = 1
    following = compare_exchanged(masks[:, 0] + random.random((12, 16, 16)), masks, IDS, ["heart"])[0]
    average = compare_exchanged(masks[:, 0].mean(0) + random.random((12, 16, 16)), masks, IDS, ["heart"])[0]
    assert following.p < 0.001 < 0.05 < average.p
    assert "in other patients" in following.sentence


def test_too_few_patients() -> None:
    saliency, masks = maps(0)
    with pytest.raises(DataError, match="moved regions needs at least 4 patients with all scores, got 2"):
        compare_translated(saliency, masks, ["a", "a", "b", "b"], ["a", "b"])
