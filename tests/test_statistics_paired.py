"""Paired scores: every set of signs counted, regions within images, reference maps, patients as their own controls."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cfxai.errors import DataError
from cfxai.regions.statistics.own_controls import compare_own_controls
from cfxai.regions.statistics.reference import compare_with_reference
from cfxai.regions.statistics.sign_flip import flip_signs
from cfxai.regions.statistics.within import compare_regions

REGIONS = ("left", "middle", "right")
IDS = [f"p{i:02d}" for i in range(40)]


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_every_set_of_signs_is_counted(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.5, 1, (7, 3))
    tested = flip_signs(differences)
    null = [
        stats.ttest_1samp(np.array(signs)[:, None] * differences, 0).statistic for signs in product([1, -1], repeat=7)
    ]
    size, observed = np.abs(null), np.abs(tested.statistic)
    assert tested.statistic == pytest.approx(stats.ttest_1samp(differences, 0).statistic)
    assert (tested.exact, tested.draws) == (True, 128)
    assert tested.p == pytest.approx((size >= observed - 1e-9).mean(0))
    assert tested.adjusted == pytest.approx((size.max(1, keepdims=True) >= observed - 1e-9).mean(0))
    assert flip_signs(differences, draws=127).p == pytest.approx(tested.p, abs=0.15)


def test_one_column_is_scipys_permutation_test() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 11)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert flip_signs(differences[:, None]).p[0] == pytest.approx(expected.pvalue)


def test_false_positives_of_a_paired_family() -> None:
    random = np.random.default_rng(0)
    tested = [flip_signs(random.laplace(size=(14, 6)), draws=199) for _ in range(300)]
    adjusted = sum(found.adjusted.min() <= 0.05 for found in tested)
    assert stats.binomtest(adjusted, 300, 0.05, alternative="greater").pvalue > 0.01
    assert sum(found.p.min() <= 0.05 for found in tested) > 50


def test_regions_of_an_image() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(20, 1)) + random.normal(size=(20, 3)) * 0.5 + [0, 0.2, 1]
    found = compare_regions(scores, IDS[:20], REGIONS)
    assert found.overall is not None
    assert found.overall.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert [pair.name for pair in found.pairs] == ["left minus middle", "left minus right", "middle minus right"]
    for pair, (i, j) in zip(found.pairs, ((0, 1), (0, 2), (1, 2)), strict=True):
        difference = scores[:, i] - scores[:, j]
        assert pair.wilcoxon_p == pytest.approx(stats.wilcoxon(difference).pvalue)
        assert pair.statistic == pytest.approx(stats.ttest_rel(scores[:, i], scores[:, j]).statistic)
        assert pair.p == pytest.approx(stats.ttest_rel(scores[:, i], scores[:, j]).pvalue, abs=0.02)
        assert pair.low < difference.mean() < pair.high
    largest = max(found.pairs, key=lambda pair: pair.p)
    assert largest.adjusted_p == max(pair.adjusted_p for pair in found.pairs)
    assert min(pair.adjusted_p for pair in found.pairs) == pytest.approx(3 * min(pair.p for pair in found.pairs))
    for part in ("95 % CI", "rank-biserial", "Holm p", "family of 3", "20 patients"):
        assert part in found.pairs[0].sentence


def test_what_all_regions_of_an_image_share_does_not_matter() -> None:
    random = np.random.default_rng(2)
    scores, shift = random.normal(size=(9, 3)), random.normal(size=(9, 1)) * 100
    for a, b in zip(
        compare_regions(scores, IDS[:9], REGIONS).pairs,
        compare_regions(scores + shift, IDS[:9], REGIONS).pairs,
        strict=True,
    ):
        assert (b.p, b.wilcoxon_p, b.rank_biserial) == pytest.approx((a.p, a.wilcoxon_p, a.rank_biserial))


def test_two_regions_need_no_friedman_test() -> None:
    scores = np.random.default_rng(2).normal(size=(9, 2))
    found = compare_regions(scores, IDS[:9], REGIONS[:2])
    assert (found.overall, len(found.pairs)) == (None, 1)


def test_scores_against_a_reference() -> None:
    random = np.random.default_rng(5)
    reference = random.normal(size=(24, 2, 3))
    scores = reference + random.normal(size=(24, 2, 3)) * 0.3 + np.array([0, 0, 0.6])
    scores[0, 0, 0] = np.nan
    found = compare_with_reference(
        scores, reference, np.repeat(IDS[:12], 2), REGIONS, methods=("gradient", "rise"), against="random weights"
    )
    assert {(each.family, each.patients, each.left_out) for each in found} == {(6, 12, 1)}
    assert [each.adjusted_p < 0.05 for each in found] == [False, False, True] * 2
    assert found[2].name == "gradient, right, minus random weights"
    one = np.array([np.nanmean((scores - reference)[i : i + 2, 0, 2]) for i in range(2, 24, 2)])
    assert found[2].difference == pytest.approx((one.sum() + (scores - reference)[1, 0, 2]) / 12)


def test_a_map_equal_to_its_reference_does_not_differ() -> None:
    scores = np.random.default_rng(5).normal(size=(8, 3))
    for each in compare_with_reference(scores, scores, IDS[:8], REGIONS, margin=0.1):
        assert (each.difference, each.low, each.high, each.p, each.wilcoxon_p) == (0, 0, 0, 1, 1)
        assert each.equivalence_p == 0


def test_patients_as_their_own_controls() -> None:
    random = np.random.default_rng(6)
    patient = np.repeat(np.arange(10), 6)
    labels = np.tile([0, 0, 1, 1, 1, 1], 10)
    labels[:6] = 1  # one patient has abnormal images only
    scores = random.normal(size=(10, 1))[patient] * 5 + random.normal(size=(60, 3)) * 0.2
    scores[:, 1] += labels
    found = compare_own_controls(scores, labels, np.array(IDS)[patient], REGIONS)
    expected = [
        scores[(patient == i) & (labels == 1)].mean(0) - scores[(patient == i) & (labels == 0)].mean(0)
        for i in range(1, 10)
    ]
    assert [each.difference for each in found] == pytest.approx(np.mean(expected, axis=0))
    assert {(each.patients, each.left_out) for each in found} == {(9, 6)}
    assert [each.adjusted_p < 0.05 for each in found] == [False, True, False]


def test_too_few_patients() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(DataError, match="needs at least 6 patients with all scores, got 5"):
        compare_regions(scores, IDS[:5], REGIONS)
    with pytest.raises(DataError, match=r"images of the same patients needs at least 6 patients .* got 0"):
        compare_own_controls(scores, np.arange(5) % 2, IDS[:5], REGIONS)
    with pytest.raises(DataError, match="two or more"):
        compare_regions(scores[:, :1], IDS[:5], ["lung"])
