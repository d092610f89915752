"""Do several scores of the same patients differ at all? Friedman's test of their ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import friedmanchisquare

from cfxai.regions.statistics.patients import require_patients
from cfxai.regions.statistics.sentences import counted, number, p_value, sentence

LEAST = 6
"""Patients below which the chi-square approximation is poor."""


@dataclass(frozen=True)
class Friedman:
    """Chi-square of k - 1 degrees of freedom over `compared`, the k names."""

    chi_square: float
    p: float
    compared: tuple[str, ...]
    patients: int

    @property
    def sentence(self) -> str:
        test = f"Friedman χ² {number(self.chi_square)}, {p_value(self.p)}"
        return sentence([f"{', '.join(self.compared)}: {test}", counted(self.patients, "patient")])


def friedman(scores: Float[np.ndarray, "p k"], names: Sequence[str]) -> Friedman | None:
    """Friedman 1937; None for fewer than three scores, which the paired tests compare.

    Raises:
        DataError: fewer than 6 patients.
    """
    require_patients(len(scores), LEAST, "Friedman's test")
    if len(names) < 3:
        return None
    if (scores == scores[:, :1]).all():
        return Friedman(0.0, 1.0, tuple(names), len(scores))
    found = friedmanchisquare(*scores.T)
    return Friedman(float(found.statistic), float(found.pvalue), tuple(names), len(scores))
