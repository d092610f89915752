"""Methods on the same images: critical differences as printed by Demšar, agreement as by Shrout and Fleiss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cfxai.errors import DataError
from cfxai.regions.statistics.agreement import agreement, icc, kendall_w
from cfxai.regions.statistics.methods import compare_methods, critical_difference

METHODS = ("gradient", "rise", "lrp", "occlusion")
REGIONS = ("left", "middle", "right")
IDS = [f"p{i:02d}" for i in range(30)]


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])  # Demšar 2006, table 5a
def test_critical_difference(methods: int, q: float) -> None:
    assert critical_difference(methods, 14) == pytest.approx(q * np.sqrt(methods * (methods + 1) / (6 * 14)), rel=1e-3)


def test_methods_on_the_same_images() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(60, 1)) + random.normal(size=(60, 4)) * 0.5 + [0, 0.9, 0, 0.1]
    values[7, 2] = np.nan
    found = compare_methods(values, np.repeat(IDS, 2), METHODS)
    mean = np.nanmean(np.where(np.isnan(values).any(1, keepdims=True), np.nan, values).reshape(30, 2, 4), axis=1)
    assert found.ranks == pytest.approx(stats.rankdata(-mean, axis=1).mean(0))
    assert found.overall is not None
    assert found.overall.p == pytest.approx(stats.friedmanchisquare(*mean.T).pvalue)
    assert min(found.ranks) == found.ranks[1]
    assert {(pair.family, pair.left_out) for pair in found.pairs} == {(6, 1)}
    assert found.pairs[0].name == "gradient minus rise"
    assert found.pairs[0].adjusted_p < 0.01 < found.pairs[1].adjusted_p
    assert found.sentence.startswith("average ranks, 1 = best: rise")
    assert "critical difference 0.856 at 0.05 (Nemenyi); 30 patients" in found.sentence


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_kendalls_w_is_friedmans_chi_square(seed: int) -> None:
    ranks = stats.rankdata(np.random.default_rng(seed).integers(0, 4, (5, 4)) + np.arange(4) * 0.5, axis=1)
    if np.ptp(ranks, axis=1).all():
        assert kendall_w(ranks) == pytest.approx(stats.friedmanchisquare(*ranks.T).statistic / (5 * 3))


def test_icc_of_shrout_and_fleiss() -> None:
    """Their table 2, six targets and four judges, for which table 4 has 0.29."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc(np.array(ratings, float)) == pytest.approx(0.2898, abs=1e-4)


def test_agreement_of_equal_and_of_unrelated_methods() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(30, 1, 3))
    same = agreement(scores * np.array([1, 10, 0.1, 7])[None, :, None], IDS, METHODS, REGIONS)
    assert same.kendall_w == pytest.approx((1, 1, 1))
    assert same.icc == pytest.approx((1, 1, 1))
    unrelated = agreement(random.normal(size=(30, 4, 3)), IDS, METHODS, REGIONS)
    w, low, high = unrelated.kendall_w
    assert low < 0.25 < high
    assert low < w < high
    assert unrelated.icc[1] < 0 < unrelated.icc[2]
    assert "0.25 by chance" in unrelated.sentence


def test_refusals() -> None:
    scores = np.random.default_rng(1).normal(size=(3, 4, 3))
    with pytest.raises(DataError, match="at least 4 patients"):
        agreement(scores, IDS[:3], METHODS, REGIONS)
    with pytest.raises(DataError, match="two methods and two regions"):
        agreement(scores[:, :1], IDS[:3], METHODS[:1], REGIONS)
    with pytest.raises(DataError, match="at least 6 patients"):
        compare_methods(scores[:, :, 0], IDS[:3], METHODS)
    with pytest.raises(DataError, match="do not fit 3 methods and 3 regions"):
        agreement(scores, IDS[:3], METHODS[:3], REGIONS)
