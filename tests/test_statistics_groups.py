"""Differences between groups of patients: every relabelling counted by hand, false positives, covariates, refusals."""

from itertools import combinations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cfxai.errors import DataError
from cfxai.regions.statistics.freedman_lane import permute_residuals
from cfxai.regions.statistics.groups import compare_groups
from cfxai.regions.statistics.label_permutation import permute_labels

SEEDS = st.integers(0, 10**6)
REGIONS = ("left", "middle", "right")


def patients(count: int) -> list[str]:
    return [f"p{i:02d}" for i in range(count)]


def two_groups(seed: int, size: tuple[int, int] = (9, 7), shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1], size)
    return random.normal(size=(sum(size), 3)) + shift * labels[:, None], labels


def welch(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Infinite where no group varies, 0 where they do not differ either."""
    found = []
    for x, y in zip(a.T, b.T, strict=True):
        difference, variance = x.mean() - y.mean(), np.var(x, ddof=1) / len(x) + np.var(y, ddof=1) / len(y)
        found.append(
            difference / np.sqrt(variance) if variance > 1e-12 else np.sign(difference) * np.inf if difference else 0.0
        )
    return found


@settings(max_examples=10)
@given(seed=SEEDS, integers=st.booleans())
def test_every_relabelling_is_counted(seed: int, integers: bool) -> None:
    scores = np.random.default_rng(seed).normal(size=(8, 3)) * 2
    scores = scores.round() + np.arange(8)[:, None] % 2 if integers else scores
    member = np.arange(8) < 4
    tested = permute_labels(scores, member)
    null = []
    for chosen in combinations(range(8), 4):
        inside = np.isin(np.arange(8), chosen)
        null.append(welch(scores[inside], scores[~inside]))
    size = np.abs(null)
    observed = np.abs(tested.statistic)
    reached = observed * (1 - 1e-7) - 1e-7
    assert observed == pytest.approx(size[0])
    assert (tested.exact, tested.draws) == (True, 70)
    assert tested.p == pytest.approx((size >= reached).mean(0))
    assert tested.adjusted == pytest.approx((size.max(1, keepdims=True) >= reached).mean(0))


def test_random_relabellings_estimate_all_of_them() -> None:
    scores, labels = two_groups(3, (6, 6), shift=0.8)
    everything = permute_labels(scores, labels == 1)
    some = permute_labels(scores, labels == 1, draws=900)
    assert (everything.exact, some.exact) == (True, False)
    assert some.p == pytest.approx(everything.p, abs=0.04)
    assert some.adjusted == pytest.approx(everything.adjusted, abs=0.05)
    assert permute_labels(scores * 0 + np.arange(12)[:, None], labels == 1, draws=99).p.min() == 1 / 100


def test_false_positives_of_a_family() -> None:
    """Of 400 families without any difference, 5 % may hold a false positive after adjustment; 26 % do before."""
    random = np.random.default_rng(0)
    alone = adjusted = 0
    for _ in range(400):
        tested = permute_labels(random.standard_t(4, (20, 6)), np.arange(20) < 10, draws=199, seed=1)
        alone += tested.p.min() <= 0.05
        adjusted += tested.adjusted.min() <= 0.05
    assert stats.binomtest(adjusted, 400, 0.05, alternative="greater").pvalue > 0.01
    assert stats.binomtest(adjusted, 400, 0.05, alternative="less").pvalue > 0.01
    assert stats.binomtest(alone, 400, 0.15, alternative="greater").pvalue < 0.01


def test_max_t_costs_less_than_bonferroni_for_regions_that_move_together() -> None:
    scores, labels = two_groups(1, (20, 20), shift=0.7)
    same = np.repeat(scores[:, :1], 9, axis=1)
    tested = permute_labels(same, labels == 1)
    assert tested.adjusted == pytest.approx(tested.p)
    assert (permute_labels(scores, labels == 1).adjusted >= permute_labels(scores, labels == 1).p).all()


@settings(max_examples=15)
@given(seed=SEEDS, order=st.permutations(range(3)), scale=st.floats(0.01, 100))
def test_order_and_unit_of_the_regions_do_not_matter(seed: int, order: list[int], scale: float) -> None:
    scores, labels = two_groups(seed, shift=0.5)
    plain = permute_labels(scores, labels == 1, draws=300)
    other = permute_labels(scores[:, order] * scale + 3, labels == 1, draws=300)
    assert other.statistic == pytest.approx(plain.statistic[order])
    assert other.adjusted == pytest.approx(plain.adjusted[order])


def test_the_group_holding_covariates_equal_is_least_squares() -> None:
    scores, labels = two_groups(5, (14, 16), shift=0.6)
    covariates = np.random.default_rng(6).normal(size=(30, 2)) * [1, 50] + labels[:, None]
    found = compare_groups(scores, labels, patients(30), REGIONS, covariates=covariates, margin=0.4)
    for i, result in enumerate(found):
        fit = sm.OLS(scores[:, i], sm.add_constant(np.column_stack([labels, covariates]))).fit()
        assert result.difference == pytest.approx(fit.params[1])
        assert result.statistic == pytest.approx(fit.tvalues[1])
        margin = max(stats.t.sf((0.4 + s * fit.params[1]) / fit.bse[1], fit.df_resid) for s in (1, -1))
        assert result.equivalence_p == pytest.approx(margin)
        low, high = fit.conf_int()[1]
        assert (result.low, result.high) == pytest.approx((low, high), abs=0.5 * (high - low) / 2)


def test_permuted_residuals_against_refitting_each_time() -> None:
    """Freedman and Lane's steps as they wrote them."""
    random = np.random.default_rng(2)
    covariate = random.normal(size=(16, 1))
    member = random.normal(size=16) + covariate[:, 0] > 0
    score = 0.6 * member + covariate[:, 0] + random.normal(size=16)
    reduced = sm.OLS(score, sm.add_constant(covariate)).fit()
    design = sm.add_constant(np.column_stack([member, covariate]))
    observed = abs(sm.OLS(score, design).fit().tvalues[1])
    null = [
        abs(sm.OLS(reduced.fittedvalues + random.permutation(reduced.resid), design).fit().tvalues[1])
        for _ in range(1500)
    ]
    tested = permute_residuals(score[:, None], member, covariate)
    assert abs(tested.statistic[0]) == pytest.approx(observed)
    assert tested.p[0] == pytest.approx(np.mean(np.array(null) >= observed), abs=0.04)


def test_a_confounder_is_not_taken_for_the_group() -> None:
    random = np.random.default_rng(4)
    held = unheld = 0
    for _ in range(200):
        age = random.normal(size=(24, 1))
        member = (age[:, 0] + random.normal(size=24)) > 0
        if not 4 <= member.sum() <= 20:
            continue
        scores = age + random.normal(size=(24, 3))
        held += permute_residuals(scores, member, age, draws=199).adjusted.min() <= 0.05
        unheld += permute_labels(scores, member, draws=199).adjusted.min() <= 0.05
    assert stats.binomtest(held, 200, 0.05, alternative="greater").pvalue > 0.01
    assert unheld > 60


def test_images_of_a_patient_count_once() -> None:
    scores, labels = two_groups(7, shift=1.0)
    once = compare_groups(scores, labels, patients(16), REGIONS)
    jitter = np.random.default_rng(0).normal(size=scores.shape)
    doubled = np.concatenate([scores + jitter, scores - jitter, np.full((1, 3), np.nan)])
    again = compare_groups(doubled, np.r_[labels, labels, 1], [*patients(16), *patients(16), "p00"], REGIONS)
    for a, b in zip(once, again, strict=True):
        assert (b.difference, b.adjusted_p, b.patients) == (pytest.approx(a.difference), a.adjusted_p, (7, 9))
        assert (a.left_out, b.left_out) == (0, 1)
        assert "1 image left out" in b.sentence


def test_methods_and_regions_are_one_family() -> None:
    scores, labels = two_groups(8, (10, 10))
    both = np.stack([scores, scores**3], axis=1)
    found = compare_groups(both, labels, patients(20), REGIONS, methods=("gradient", "rise"))
    assert [result.name.split(", abnormal")[0] for result in found][2:4] == ["gradient, right", "rise, left"]
    assert {result.family for result in found} == {6}
    alone = compare_groups(scores, labels, patients(20), REGIONS)
    assert all(a.adjusted_p >= b.adjusted_p for a, b in zip(found, alone, strict=False))


def test_beside_stand_the_usual_numbers() -> None:
    scores, labels = two_groups(9, (12, 10), shift=0.9)
    result = compare_groups(scores, labels, patients(22), REGIONS, margin=0.1)[1]
    high, low = scores[labels == 1, 1], scores[labels == 0, 1]
    assert result.statistic == pytest.approx(stats.ttest_ind(high, low, equal_var=False).statistic)
    assert result.brunner_munzel_p == pytest.approx(stats.brunnermunzel(high, low).pvalue)
    assert result.difference == pytest.approx(high.mean() - low.mean())
    assert result.low < result.difference < result.high
    for part in ("95 % CI", "Hedges g", "Cliff δ", "max-T p", "family of 3", "TOST", "10 patients abnormal, 12 normal"):
        assert part in result.sentence


def test_groups_that_do_not_overlap_have_no_brunner_munzel() -> None:
    scores, labels = np.arange(8.0)[:, None], np.repeat([0, 1], 4)
    result = compare_groups(scores, labels, patients(8), ["lung"])[0]
    assert np.isnan(result.brunner_munzel_p)
    assert "Brunner–Munzel p undefined" in result.sentence
    assert (result.cliff_delta, result.p) == (1.0, pytest.approx(2 / 70))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y, p, z: (s[:11], y[:11], p[:11], z[:11]), r"abnormal\) needs at least 4 patients .* got 3"),
        (lambda s, y, p, z: (s, y, ["a"] * 16, z), "Patient a has images of several groups"),
        (lambda s, y, p, z: (s * [1, 0, 1], y, p, z), "middle is the same in every patient"),
        (lambda s, y, p, z: (s, y, p, np.column_stack([y, y])), "covariates determine the group"),
        (lambda s, y, p, z: (s, y, p, np.random.default_rng(0).normal(size=(16, 9))), "at least 17 patients"),
        (lambda s, y, p, z: (s * np.nan, y, p, z), "No image has a score in every region"),
    ],
)
def test_no_number_instead_of_a_wrong_one(change, message: str) -> None:
    scores, labels = two_groups(1, (8, 8))
    covariates = np.random.default_rng(0).normal(size=(16, 1))
    scores, labels, ids, covariates = change(scores, labels, patients(16), covariates)
    with pytest.raises(DataError, match=message):
        compare_groups(scores, labels, ids, REGIONS, covariates=covariates)
