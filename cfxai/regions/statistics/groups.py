"""Do region scores differ between two groups of patients?"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.stats import brunnermunzel

from cfxai.regions.statistics.covariates import adjust_for, difference_interval
from cfxai.regions.statistics.difference import GroupDifference
from cfxai.regions.statistics.effects import cliff_delta, hedges_g
from cfxai.regions.statistics.freedman_lane import permute_residuals
from cfxai.regions.statistics.label_permutation import permute_labels
from cfxai.regions.statistics.no_difference import detectable, equivalence_p
from cfxai.regions.statistics.patients import Ids, columns, per_patient, require_patients, require_variation

LEAST = 4
"""Patients in a group; with 3 and 3 the smallest permutation p-value is 0.1."""


def compare_groups(
    scores: Num[np.ndarray, "n *m r"],
    labels: Int[np.ndarray, " n"],
    patients: Ids,
    regions: Sequence[str],
    *,
    methods: Sequence[str] = (),
    covariates: Num[np.ndarray, "n c"] | None = None,
    groups: tuple[str, str] = ("abnormal", "normal"),
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 5000,
    seed: int = 0,
) -> list[GroupDifference]:
    """Abnormal minus normal patients, one test per region (and method), all of them one max-T family.

    Without covariates Welch's t under permutation of the patients' labels; with covariates (age, view, site, logit:
    numbers, classes as 0 / 1) the group's t in least squares by Freedman and Lane. The test is never chosen by a look
    at the data.

    Args:
        scores: of each image. labels: 0 = normal, the second of `groups`; all others are the first.
        margin: in units of the score, differences within which would not matter.

    Raises:
        DataError: too few patients, a patient in both groups, a score that never varies, collinear covariates.
    """
    flat, names = columns(scores, regions, methods)
    sample = per_patient(flat, patients, (labels != 0).astype(int), covariates)
    member, adjusted = sample.labels == 1, sample.covariates.shape[1]
    size = int(member.sum()), int((~member).sum())
    for group, count in zip(groups, size, strict=True):
        require_patients(count, LEAST, f"A comparison of groups ({group})")
    require_patients(sum(size), adjusted + 2 * LEAST, f"A comparison with {adjusted} covariates")
    require_variation(sample.scores, names)
    if adjusted:
        tested = permute_residuals(sample.scores, member, sample.covariates, draws=draws, seed=seed)
    else:
        tested = permute_labels(sample.scores, member, draws=draws, seed=seed)
    fit = adjust_for(sample.scores, member, sample.covariates)
    high, low = fit.scores[member], fit.scores[~member]
    lower, upper = difference_interval(sample.scores, member, sample.covariates, seed)
    g, delta = hedges_g(high, low), cliff_delta(high, low)
    power = detectable(size, alpha / len(names))
    return [
        GroupDifference(
            name=f"{name}, {groups[0]} minus {groups[1]}",
            difference=float(fit.difference[i]),
            low=float(lower[i]),
            high=float(upper[i]),
            statistic=float(tested.statistic[i]),
            p=float(tested.p[i]),
            adjusted_p=float(tested.adjusted[i]),
            correction="max-T",
            family=len(names),
            margin=margin,
            equivalence_p=None
            if margin is None
            else equivalence_p(float(fit.difference[i]), float(fit.error[i]), float(fit.freedom[i]), margin),
            detectable=power,
            alpha=alpha,
            left_out=sample.left_out,
            hedges_g=float(g[i]),
            cliff_delta=float(delta[i]),
            brunner_munzel_p=_brunner_munzel(high[:, i], low[:, i]),
            groups=groups,
            patients=size,
            covariates=adjusted,
        )
        for i, name in enumerate(names)
    ]


def _brunner_munzel(high: Float[np.ndarray, " a"], low: Float[np.ndarray, " b"]) -> float:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # not defined for groups that do not overlap: NaN says so
        return float(brunnermunzel(high, low).pvalue)
