"""Effects, intervals, power and adjusted p-values against pairs counted one by one, scipy and statsmodels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from cfxai.regions.statistics.effects import cliff_delta, hedges_g, interval, rank_biserial
from cfxai.regions.statistics.multiplicity import adjust
from cfxai.regions.statistics.no_difference import detectable, equivalence_p

SEEDS = st.integers(0, 10**6)


def groups(seed: int, columns: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 9, (11, columns)) * 1.0, random.integers(2, 9, (7, columns)) * 1.0


@settings(max_examples=30)
@given(seed=SEEDS)
def test_cliffs_delta_counts_pairs(seed: int) -> None:
    a, b = groups(seed)
    pairs = [[np.sign(x - y) for x in a[:, j] for y in b[:, j]] for j in range(3)]
    assert cliff_delta(a, b) == pytest.approx(np.mean(pairs, axis=1))


@settings(max_examples=30)
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_effects_do_not_depend_on_the_unit(seed: int, scale: float) -> None:
    a, b = groups(seed)
    assert cliff_delta(a**3, b**3) == pytest.approx(cliff_delta(a, b))
    assert hedges_g(scale * a + 5, scale * b + 5) == pytest.approx(hedges_g(a, b))
    assert hedges_g(b, a) == pytest.approx(-hedges_g(a, b))


def test_hedges_g_of_a_worked_example() -> None:
    a, b = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [6.0]])
    # Pooled variance (2 + 8) / 4; the factor for 4 degrees of freedom is gamma(2) / (sqrt(2) gamma(1.5)).
    assert hedges_g(a, b) == pytest.approx(-2 / np.sqrt(2.5) / (np.sqrt(2) * np.sqrt(np.pi) / 2))


@settings(max_examples=30)
@given(seed=SEEDS)
def test_rank_biserial_is_wilcoxons_rank_sums(seed: int) -> None:
    difference = np.random.default_rng(seed).integers(-4, 5, 12) * 1.0
    difference[0] = 1.0
    some = difference[difference != 0]
    ranks = stats.rankdata(np.abs(some))
    expected = (ranks[some > 0].sum() - ranks[some < 0].sum()) / ranks.sum()
    assert rank_biserial(difference[:, None]) == pytest.approx([expected])


def test_interval_is_scipys_and_covers() -> None:
    random = np.random.default_rng(0)
    sample = random.exponential(size=(2, 30))
    low, high = interval((sample,), np.mean)
    for row in range(2):
        expected = stats.bootstrap((sample[row],), np.mean, rng=np.random.default_rng(0)).confidence_interval
        assert (low[row], high[row]) == pytest.approx((expected.low, expected.high), abs=0.03)
    many = random.exponential(size=(300, 30))
    low, high = interval((many,), np.mean, resamples=500)
    assert 0.89 < np.mean((low < 1) & (high > 1)) <= 0.98
    assert [bound.tolist() for bound in interval((np.full((1, 9), 2.0),), np.mean)] == [[2.0], [2.0]]


@pytest.mark.parametrize("count", [1, 2, 12])
def test_adjusted_p_values_against_statsmodels(count: int) -> None:
    p = np.random.default_rng(count).random(count).round(1) / 5
    for ours, theirs in (("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")):
        adjusted = adjust(p, ours)
        assert adjusted.p == pytest.approx(multipletests(p, method=theirs)[1])
        assert adjusted.family == count


def test_equivalence_against_statsmodels() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 25), random.normal(0.1, 2, 30)
    welch = stats.ttest_ind(a, b, equal_var=False)
    error = (a.mean() - b.mean()) / welch.statistic
    for margin in (0.2, 1.0, 3.0):
        expected = ttost_ind(a, b, -margin, margin, usevar="unequal")[0]
        assert equivalence_p(a.mean() - b.mean(), error, welch.df, margin) == pytest.approx(expected)
    paired = equivalence_p(np.mean(a - b[:25]), stats.sem(a - b[:25]), 24, 0.7)
    assert paired == pytest.approx(ttost_paired(a, b[:25], -0.7, 0.7)[0])


@pytest.mark.parametrize("tests", [1, 3, 36, 108])
@pytest.mark.parametrize("patients", [6, 30, 57, (6, 30), (57, 60)])
def test_what_is_called_detectable_is_found_with_80_percent_power(patients: Any, tests: int) -> None:
    found, alpha = detectable(patients, 0.05 / tests), 0.05 / tests
    noise, draws = np.random.default_rng(0), 20_000
    if isinstance(patients, int):
        p = stats.ttest_1samp(noise.normal(found, 1, (draws, patients)), 0, axis=1).pvalue
    else:
        groups = noise.normal(found, 1, (draws, patients[0])), noise.normal(0, 1, (draws, patients[1]))
        p = stats.ttest_ind(*groups, axis=1).pvalue
    assert (p < alpha).mean() == pytest.approx(0.8, abs=0.015)


def test_detectable_differences() -> None:
    assert detectable((20, 20), 0.05 / 3) == pytest.approx(1.06, abs=0.005)
    assert detectable((20, 20), 0.05 / 9) == pytest.approx(1.20, abs=0.005)
    # At that difference the noncentral t lies beyond the critical value in 80 % of samples.
    for patients, error, freedom in (((12, 30), np.sqrt(1 / 12 + 1 / 30), 40), (15, np.sqrt(1 / 15), 14)):
        found = stats.nct(freedom, detectable(patients, 0.01) / error)
        critical = stats.t.isf(0.005, freedom)
        assert found.sf(critical) + found.cdf(-critical) == pytest.approx(0.8, abs=1e-4)
