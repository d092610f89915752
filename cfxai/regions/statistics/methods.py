"""Which explanation method does best on the same images? Ranks as in Demšar 2006, JMLR 7."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Num
from scipy.stats import rankdata, studentized_range

from cfxai.errors import DataError
from cfxai.regions.statistics.difference import PairedDifference
from cfxai.regions.statistics.friedman import Friedman, friedman
from cfxai.regions.statistics.paired import paired_tests
from cfxai.regions.statistics.patients import Ids, columns, per_patient
from cfxai.regions.statistics.sentences import counted, number, sentence


@dataclass(frozen=True)
class MethodComparison:
    """Methods in the order they were given.

    Attributes:
        ranks: average over patients, 1 = best.
        critical_difference: of average ranks, which differ significantly beyond it (Nemenyi 1963), at `alpha`.
        overall: over all methods; None for two.
        pairs: the first minus the second, by sign flips, one max-T family.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    critical_difference: float
    alpha: float
    overall: Friedman | None
    pairs: tuple[PairedDifference, ...]
    patients: int

    @property
    def sentence(self) -> str:
        order = sorted(zip(self.ranks, self.methods, strict=True))
        ranks = ", ".join(f"{name} {number(rank)}" for rank, name in order)
        critical = f"critical difference {number(self.critical_difference)} at {number(self.alpha)} (Nemenyi)"
        return sentence([f"average ranks, 1 = best: {ranks}", critical, counted(self.patients, "patient")])


def compare_methods(
    values: Num[np.ndarray, "n m"],
    patients: Ids,
    methods: Sequence[str],
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> MethodComparison:
    """Compares any measure of quality, higher = better, of several methods on the same images.

    Raises:
        DataError: fewer than 6 patients, or a single method.
    """
    if len(methods) < 2:
        raise DataError("Methods can be compared with each other only where there are two or more.")
    flat, names = columns(values, methods)
    sample = per_patient(flat, patients)
    first, second = np.array(list(combinations(range(len(names)), 2))).T
    pairs = paired_tests(
        sample.scores[:, first] - sample.scores[:, second],
        [f"{names[i]} minus {names[j]}" for i, j in zip(first, second, strict=True)],
        "max-T",
        left_out=sample.left_out,
        margin=margin,
        alpha=alpha,
        draws=draws,
        seed=seed,
    )
    ranks = rankdata(-sample.scores, axis=1).mean(0)
    return MethodComparison(
        names,
        tuple(float(rank) for rank in ranks),
        critical_difference(len(names), len(sample.scores), alpha),
        alpha,
        friedman(sample.scores, names),
        tuple(pairs),
        len(sample.scores),
    )


def critical_difference(methods: int, patients: int, alpha: float = 0.05) -> float:
    """q_alpha sqrt(m (m + 1) / 6n), q from the studentised range over sqrt 2 (Demšar 2006, equation 5)."""
    q = studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * patients)))
