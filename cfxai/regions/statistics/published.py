"""The tests that were published, to repeat them. For your own data use `compare_groups`.

Both choose the test by looking at the data, take every image for a patient, and correct over regions but not over
methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats

from cfxai.errors import DataError
from cfxai.regions.statistics.effects import cohen_d
from cfxai.regions.statistics.sentences import counted, left_out, number, p_value, sentence

Published = Literal["seed", "paper"]
ALPHA = {"seed": 0.05, "paper": 0.001}


@dataclass(frozen=True)
class PublishedTest:
    """Normal images against those of one class in one region.

    Attributes:
        test: Student t, Welch t or Mann–Whitney U. statistic, p: two-sided.
        adjusted_p: Bonferroni over `family` tests. significant: it is below `alpha`.
        cohen_d: normal minus the class, as published.
        images: normal ones, those of the class.
    """

    name: str
    test: str
    statistic: float
    p: float
    adjusted_p: float
    family: int
    alpha: float
    significant: bool
    cohen_d: float
    images: tuple[int, int]
    left_out: int

    @property
    def sentence(self) -> str:
        verdict = "significant" if self.significant else "not significant"
        adjusted = f"{p_value(self.adjusted_p, 'Bonferroni p')} in a family of {self.family}"
        return sentence(
            [
                f"{self.name}: {self.test} {number(self.statistic)}, {p_value(self.p)}, {adjusted}",
                f"{verdict} at {number(self.alpha)}, Cohen d {number(self.cohen_d)}",
                f"{counted(self.images[0], 'normal image')}, {self.images[1]} of the class",
                *left_out(self.left_out),
            ]
        )


def published_tests(
    scores: Num[np.ndarray, "n r"],
    labels: Int[np.ndarray, " n"],
    regions: Sequence[str],
    published: Published,
    *,
    classes: Sequence[str] = ("normal", "abnormal"),
) -> list[PublishedTest]:
    """Each class against the normal images, in each region.

    Where Shapiro and Wilk accept both groups as normal and Levene (of medians) their variances as equal, all at 0.05,
    a t test, else Mann and Whitney's.

    Args:
        labels: 0 = normal, i = the i-th of `classes`.
        published: `paper`: facial regions of genetic syndromes (github.com/sumeromer/facial-gestalt-xai): Welch's t
            for groups of unequal size, as pingouin does, at 0.001. `seed`: its replication on chest X-rays
            (github.com/Nimanui/RegionBasedSaliencyForMedicalApplications): Student's t, at 0.05.

    Raises:
        DataError: a class has fewer than 3 images, or no name.
    """
    if labels.max() >= len(classes):
        raise DataError(f"The labels go up to {labels.max()}, but only {len(classes)} classes are named.")
    flat = np.asarray(scores, float)
    complete = np.isfinite(flat).all(1)
    groups = [flat[complete & (labels == i)] for i in range(len(classes))]
    for name, group in zip(classes, groups, strict=True):
        if len(group) < 3:
            raise DataError(f"The published tests need at least 3 images of each class, got {len(group)} of {name}.")
    family, alpha = len(regions) * (len(classes) - 1), ALPHA[published]
    results = []
    for name, group in zip(classes[1:], groups[1:], strict=True):
        effect = cohen_d(groups[0], group)
        for i, region in enumerate(regions):
            test, statistic, p = _test(groups[0][:, i], group[:, i], welch=published == "paper")
            adjusted = min(1.0, p * family)
            results.append(
                PublishedTest(
                    name=f"{region}, {classes[0]} against {name}",
                    test=test,
                    statistic=statistic,
                    p=p,
                    adjusted_p=adjusted,
                    family=family,
                    alpha=alpha,
                    significant=adjusted < alpha,
                    cohen_d=float(effect[i]),
                    images=(len(groups[0]), len(group)),
                    left_out=int((~complete).sum()),
                )
            )
    return results


def _test(a: Float[np.ndarray, " a"], b: Float[np.ndarray, " b"], welch: bool) -> tuple[str, float, float]:
    normal = all(stats.shapiro(group).pvalue > 0.05 for group in (a, b))
    if not (normal and stats.levene(a, b).pvalue > 0.05):
        found, name = stats.mannwhitneyu(a, b, alternative="two-sided"), "Mann–Whitney U"
    elif welch and len(a) != len(b):
        found, name = stats.ttest_ind(a, b, equal_var=False), "Welch t"
    else:
        found, name = stats.ttest_ind(a, b), "Student t"
    return name, float(found.statistic), float(found.pvalue)
