"""Operating points, calibration and intervals of ranking, against brute force, hand formulas and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from cfxai.errors import ConfigError
from cfxai.metrics.calibration import (
    BOUNDS,
    calibration_error,
    fit_temperature,
    reliability,
    without_temperature,
)
from cfxai.metrics.operating_point import at_threshold, choose_operating_point
from cfxai.metrics.ranking_interval import ranking_interval

SCORES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=12)


def rates(probability: np.ndarray, abnormal: np.ndarray, threshold: float) -> tuple[float, float]:
    called = probability >= threshold
    return float(called[abnormal].mean()), float((~called)[~abnormal].mean())


@settings(max_examples=150, deadline=None)
@given(drawn=SCORES, rule=st.sampled_from(["youden", "sensitivity>=0.75", "specificity>=0.75", "sensitivity>=1"]))
def test_no_other_threshold_is_better(drawn: list[tuple[int, bool]], rule: str) -> None:
    probability, abnormal = np.array([p / 10 for p, _ in drawn]), np.array([label for _, label in drawn])
    threshold = choose_operating_point(probability, abnormal, rule)
    if abnormal.all() or not abnormal.any():
        assert threshold is None
        return
    assert threshold is not None
    assert threshold not in probability, "between the images, not on one"
    sensitivity, specificity = rates(probability, abnormal, threshold)
    for other in np.arange(0.05, 1, 0.1):
        a, b = rates(probability, abnormal, other)
        if rule == "youden":
            assert a + b <= sensitivity + specificity + 1e-9
        else:
            least = float(rule.partition(">=")[2])
            kept, gained = (sensitivity, specificity) if rule.startswith("sens") else (specificity, sensitivity)
            other_kept, other_gained = (a, b) if rule.startswith("sens") else (b, a)
            assert kept >= least
            assert other_kept < least or other_gained <= gained + 1e-9


def test_of_equal_thresholds_the_one_nearest_a_half() -> None:
    probability, abnormal = np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, True, False, True])
    assert choose_operating_point(probability, abnormal, "youden") == pytest.approx(0.75)
    probability = np.array([0.05, 0.1, 0.6, 0.7])
    assert choose_operating_point(probability, np.array([False, True, False, True]), "youden") == pytest.approx(0.65)


def test_another_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'best' is none of youden, sensitivity>=0\.95"):
        choose_operating_point(np.array([0.1, 0.9]), np.array([False, True]), "best")


def test_at_a_threshold_by_hand() -> None:
    probability = np.array([0.1, 0.4, 0.5, 0.2, 0.8, 0.9, 0.95])
    abnormal = np.array([False, False, False, True, True, True, True])
    found = at_threshold(probability, abnormal, ["a", "b", "b", "c", "d", "d", "e"], 0.5)
    assert found["confusion"] == [[2, 1], [1, 3]]
    assert (found["sensitivity"], found["specificity"]) == (0.75, pytest.approx(2 / 3))
    low, high = found["sensitivity_ci"]
    assert 0 <= low < 0.75 < high <= 1
    assert at_threshold(probability[:3], abnormal[:3], ["a", "b", "b"], 0.5)["sensitivity"] is None


def test_intervals_of_ranking_are_those_of_resampled_patients() -> None:
    """The same patients drawn, every area by scikit-learn; scores have ties."""
    random = np.random.default_rng(1)
    abnormal = random.random(60) < 0.4
    score = (random.normal(size=60) + abnormal).round(1)
    group = [f"patient {k // 3}" for k in range(60)]
    patients, patient = np.unique(group, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), 100)
    auroc, auprc = (
        [area(np.repeat(abnormal, times[patient]), np.repeat(score, times[patient])) for times in drawn]
        for area in (roc_auc_score, average_precision_score)
    )
    found = ranking_interval(score, abnormal, group, resamples=100)
    assert found[0] == pytest.approx(np.percentile(auroc, [2.5, 97.5]))
    assert found[1] == pytest.approx(np.percentile(auprc, [2.5, 97.5]))
    assert ranking_interval(score, abnormal, ["one"] * 60) == (None, None)
    assert ranking_interval(score, abnormal & False, group) == (None, None)
    assert len(patients) == 20


def test_calibration_error_by_hand() -> None:
    """Two bins of (0.5, 0.75] and (0.75, 1]: |1/2 - 0.65| of two images, |2/3 - 0.9| of three."""
    p = np.array([0.6, 0.7, 0.85, 0.9, 0.95])
    probability, label = np.stack([1 - p, p], 1), np.array([1, 0, 1, 1, 0])
    assert calibration_error(probability, label, bins=4) == pytest.approx((2 * 0.15 + 3 * (0.9 - 2 / 3)) / 5)
    images, confidence, hits = reliability(probability, label, bins=4)
    assert images.tolist() == [0, 0, 2, 3]
    assert confidence.tolist() == pytest.approx([0, 0, 1.3, 2.7])
    assert hits.tolist() == [0, 0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(true=st.floats(0.4, 8.0), classes=st.integers(2, 4), seed=st.integers(0, 999))
def test_the_temperature_that_made_them_is_found_and_none_is_better(true: float, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    sure = random.normal(size=(4000, classes)) * 2
    label = (softmax(sure, 1).cumsum(1) < random.random((4000, 1))).sum(1).clip(max=classes - 1)
    logits = sure * true
    found = fit_temperature(logits, label)
    assert found == pytest.approx(true, rel=0.15)

    def cross_entropy(temperature: float) -> float:
        return -float(np.log(softmax(logits / temperature, 1)[np.arange(4000), label]).mean())

    assert all(cross_entropy(found) <= cross_entropy(found * factor) + 1e-12 for factor in (0.97, 1.03))


def test_images_that_say_nothing_about_calibration_meet_the_bounds() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == BOUNDS[0]
    assert fit_temperature(logits * 1e4, np.array([0, 1])) == BOUNDS[0]
    assert fit_temperature(logits, np.array([1, 0])) == BOUNDS[1]


def test_a_temperature_can_be_taken_back() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3)) * 4
    np.testing.assert_allclose(without_temperature(softmax(logits / 2.5, 1), 2.5), softmax(logits, 1), atol=1e-12)
    certain = without_temperature(np.array([[1.0, 0.0]]), 2.0)
    np.testing.assert_allclose(certain, [[1.0, 0.0]], atol=1e-12)
