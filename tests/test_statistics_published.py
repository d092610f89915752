"""The published tests on the scores printed with them, and what better tests say of the same scores.

The 40 × 3 scores (gradient maps of 20 normal and 20 pneumonia images, three vertical slices) are those that cell 95 of
github.com/Nimanui/RegionBasedSaliencyForMedicalApplications prints; its p-values are from cell 101.
"""

import numpy as np
import pytest
from scipy import stats

from cfxai.errors import DataError
from cfxai.regions.statistics.groups import compare_groups
from cfxai.regions.statistics.published import published_tests

REGIONS = ("left", "middle", "right")
LABELS = np.repeat([0, 1], 20)
PATIENTS = [f"image {i}" for i in range(40)]
SCORES = (
    np.array(
        [
            line.split()
            for line in (
                "16068 15596 26391 19149 25678 17372 20885 20018 15673 23670 23517 13051 12516 22902 26666 13905 14412 "
                "17833 29981 10526 16828 21402 20216 16710 24018 10528 32279 25131 2145 14908 19831 17387 35450 19578 "
                "19028 30709 30059 18580 28090 31227",
                "22521 19307 21188 32936 30540 21119 26174 17957 24691 22293 33831 19303 20836 18388 17752 22145 21300 "
                "21972 24803 16296 16667 30358 26151 15001 13993 21242 49527 32616 22861 24134 29499 18515 43303 49263 "
                "20480 37848 29679 15156 40012 27522",
                "15901 12940 9665 18435 17966 14128 12251 19021 25332 6687 16916 10725 14088 15034 11701 14403 14194 "
                "11189 12782 11466 15053 26822 20436 21702 15628 10223 33632 22389 21804 12658 28529 20392 18838 25735 "
                "18373 27992 22890 11318 28583 13985",
            )
        ],
        float,
    ).T
    / 1e5
)


def test_the_replication_on_chest_x_rays() -> None:
    found = published_tests(SCORES, LABELS, REGIONS, "seed")
    assert [test.test for test in found] == ["Student t", "Mann–Whitney U", "Mann–Whitney U"]
    assert [test.p for test in found] == pytest.approx([0.2766324, 0.1805774, 0.0013486], rel=2e-4)
    assert [test.significant for test in found] == [False, False, True]
    assert {test.family for test in found} == {3}
    assert "Mann–Whitney U 81, p = 0.001, Bonferroni p = 0.004 in a family of 3; significant" in found[2].sentence


def test_its_only_finding_is_one_of_scale() -> None:
    """Maps of pneumonia are brighter everywhere; as shares of each map the difference is not significant."""
    assert stats.mannwhitneyu(*(SCORES[group].mean(1) for group in (slice(20), slice(20, 40)))).pvalue == pytest.approx(
        0.0499, abs=1e-4
    )
    raw = compare_groups(SCORES, LABELS, PATIENTS, REGIONS)[2]
    share = compare_groups(SCORES / SCORES.sum(1, keepdims=True), LABELS, PATIENTS, REGIONS)[2]
    assert raw.adjusted_p == pytest.approx(0.001, abs=0.001)
    assert share.adjusted_p == pytest.approx(0.066, abs=0.01)
    assert share.cliff_delta == pytest.approx(0.41)
    assert (share.low, share.high) == pytest.approx((0.009, 0.084), abs=0.002)
    assert share.detectable == pytest.approx(1.06, abs=0.005)


def test_the_papers_choice_of_tests() -> None:
    random = np.random.default_rng(0)
    normal = random.normal(size=(30, 3)) * [1, 1, 3]
    first = random.normal([1.5, 0, 0], size=(30, 3))
    second = np.exp(random.normal(size=(20, 3)) * [0, 2, 2]) + random.normal(size=(20, 3)) * [1, 0, 0]
    labels = np.repeat([0, 1, 2], [30, 30, 20])
    found = published_tests(
        np.concatenate([normal, first, second]), labels, REGIONS, "paper", classes=("unaffected", "a", "b")
    )
    assert [test.name for test in found][2:4] == ["right, unaffected against a", "left, unaffected against b"]
    for test, group, i in zip(found, [first] * 3 + [second] * 3, [0, 1, 2] * 2, strict=True):
        a, b = normal[:, i], group[:, i]
        accepted = min(stats.shapiro(a).pvalue, stats.shapiro(b).pvalue, stats.levene(a, b).pvalue) > 0.05
        expected = stats.ttest_ind(a, b, equal_var=len(b) == 30) if accepted else stats.mannwhitneyu(a, b)
        assert (test.statistic, test.p) == pytest.approx((expected.statistic, expected.pvalue))
        assert test.adjusted_p == pytest.approx(min(1, 6 * expected.pvalue))
        assert test.significant == (6 * expected.pvalue < 0.001)
        pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
        assert test.cohen_d == pytest.approx((a.mean() - b.mean()) / pooled)
    assert {test.test for test in found} == {"Student t", "Welch t", "Mann–Whitney U"}


def test_a_class_of_two_images_or_without_a_name() -> None:
    with pytest.raises(DataError, match="at least 3 images of each class, got 2 of abnormal"):
        published_tests(SCORES[:22], LABELS[:22], REGIONS, "seed")
    with pytest.raises(DataError, match="labels go up to 2, but only 2 classes are named"):
        published_tests(SCORES, LABELS * 2, REGIONS, "seed")
