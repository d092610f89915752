"""What may be said of a difference that is not significant."""

import numpy as np
from scipy.stats import t as student
from statsmodels.stats.power import TTestIndPower, TTestPower

POWER = 0.8


def equivalence_p(difference: float, error: float, freedom: float, margin: float) -> float:
    """Two one-sided t tests (Schuirmann 1987): small where the difference lies within ±margin.

    Args:
        difference: with its standard error and degrees of freedom. margin: > 0, in the same unit.
    """
    if error == 0:
        return float(abs(difference) >= margin)
    return float(student.sf((margin - abs(difference)) / error, freedom))


def detectable(patients: int | tuple[int, int], alpha: float) -> float:
    """The smallest standardised difference that a two-sided t test finds with 80 % power.

    In standard deviations within the groups for two groups, in those of the differences for pairs.
    """
    if isinstance(patients, int):
        return float(TTestPower().solve_power(nobs=patients, alpha=alpha, power=POWER))
    first, second = patients
    found = TTestIndPower().solve_power(nobs1=first, ratio=second / first, alpha=alpha, power=POWER)
    return float(np.squeeze(found))
