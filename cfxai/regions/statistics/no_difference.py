"""What may be said of a difference that is not significant."""

from scipy.optimize import brentq
from scipy.stats import nct as noncentral
from scipy.stats import t as student

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
        freedom, weight = patients - 1, patients**0.5
    else:
        first, second = patients
        freedom, weight = first + second - 2, (first * second / (first + second)) ** 0.5
    critical = student.isf(alpha / 2, freedom)

    def missing(difference: float) -> float:
        """Power still to be had; the tail on the other side is less than a millionth by then."""
        return POWER - float(noncentral.sf(critical, freedom, difference * weight))

    return float(brentq(missing, 0, 4 * critical / weight))
