"""Do two scores of the same patients differ? The test that the other paired comparisons share."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from cfxai.regions.statistics.difference import PairedDifference
from cfxai.regions.statistics.effects import interval, rank_biserial
from cfxai.regions.statistics.multiplicity import holm
from cfxai.regions.statistics.no_difference import detectable, equivalence_p
from cfxai.regions.statistics.patients import require_patients
from cfxai.regions.statistics.sign_flip import flip_signs

LEAST = 6
"""Patients below which no two-sided p-value can be under 0.05: the smallest is 2 / 2^n."""


def paired_tests(
    differences: Float[np.ndarray, "p k"],
    names: Sequence[str],
    correction: Literal["max-T", "Holm"],
    *,
    left_out: int = 0,
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> list[PairedDifference]:
    """One sign-flip test per column, all columns one family; Wilcoxon's signed-rank test beside each.

    Args:
        differences: of each patient.
        correction: `max-T`, or `Holm`, which does not let one column's spread bear on the others.

    Raises:
        DataError: fewer than 6 patients.
    """
    n, k = differences.shape
    require_patients(n, LEAST, "A paired comparison")
    tested = flip_signs(differences, draws=draws, seed=seed)
    adjusted = tested.adjusted if correction == "max-T" else holm(tested.p)
    low, high = interval((differences.T,), np.mean, seed=seed)
    error = differences.std(0, ddof=1) / np.sqrt(n)
    effect, power = rank_biserial(differences), detectable(n, alpha / k)
    results = []
    for i, name in enumerate(names):
        mean = float(differences[:, i].mean())
        results.append(
            PairedDifference(
                name=name,
                difference=mean,
                low=float(low[i]),
                high=float(high[i]),
                statistic=float(tested.statistic[i]),
                p=float(tested.p[i]),
                adjusted_p=float(adjusted[i]),
                correction=correction,
                family=k,
                margin=margin,
                equivalence_p=None if margin is None else equivalence_p(mean, float(error[i]), n - 1, margin),
                detectable=power,
                alpha=alpha,
                left_out=left_out,
                rank_biserial=float(effect[i]),
                wilcoxon_p=float(wilcoxon(differences[:, i]).pvalue) if differences[:, i].any() else 1.0,
                patients=n,
            )
        )
    return results
