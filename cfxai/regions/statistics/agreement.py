"""Do methods agree on which regions matter?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num
from scipy.stats import rankdata

from cfxai.errors import DataError
from cfxai.regions.statistics.effects import interval
from cfxai.regions.statistics.patients import Ids, columns, per_patient, require_patients
from cfxai.regions.statistics.sentences import counted, left_out, number, sentence

LEAST = 4
"""Patients, for an interval over them."""


@dataclass(frozen=True)
class Agreement:
    """Of methods' rankings of the regions of each patient, with 95 % BCa intervals over patients.

    Attributes:
        kendall_w: low, high; mean over patients, in [0, 1]; unrelated rankings have 1 / methods on average.
        icc: low, high; ICC(2,1) of all ranks: 1 = the same, 0 = unrelated.
    """

    kendall_w: tuple[float, float, float]
    icc: tuple[float, float, float]
    methods: tuple[str, ...]
    regions: tuple[str, ...]
    patients: int
    left_out: int

    @property
    def sentence(self) -> str:
        (w, w_low, w_high), (icc, icc_low, icc_high) = (map(number, found) for found in (self.kendall_w, self.icc))
        kendall = f"Kendall W {w} (95 % CI {w_low} to {w_high}; {number(1 / len(self.methods))} by chance)"
        counts = f"{counted(len(self.methods), 'method')}, {counted(len(self.regions), 'region')}"
        return sentence(
            [
                f"agreement on the order of regions: {kendall}",
                f"ICC(2,1) {icc} ({icc_low} to {icc_high})",
                f"{counts}, {counted(self.patients, 'patient')}",
                *left_out(self.left_out),
            ]
        )


def agreement(
    scores: Num[np.ndarray, "n m r"],
    patients: Ids,
    methods: Sequence[str],
    regions: Sequence[str],
    *,
    seed: int = 0,
) -> Agreement:
    """Ranks the regions under each method after averaging a patient's images; the scale of a map does not matter.

    Raises:
        DataError: fewer than 4 patients, two methods or two regions.
    """
    if min(len(methods), len(regions)) < 2:
        raise DataError("Agreement on the order of regions needs two methods and two regions at least.")
    sample = per_patient(columns(scores, regions, methods)[0], patients)
    count = len(sample.scores)
    require_patients(count, LEAST, "Agreement of methods")
    ranks = rankdata(sample.scores.reshape(count, len(methods), len(regions)), axis=2)
    concordance = kendall_w(ranks)
    low, high = interval((concordance,), np.mean, seed=seed)

    def resampled(chosen: np.ndarray, axis: int) -> np.ndarray:
        return icc(np.swapaxes(ranks[chosen], -1, -2).reshape(*chosen.shape[:-1], -1, len(methods)))

    icc_low, icc_high = interval((np.arange(count),), resampled, seed=seed)
    return Agreement(
        (float(concordance.mean()), float(low), float(high)),
        (float(resampled(np.arange(count), axis=-1)), float(icc_low), float(icc_high)),
        tuple(methods),
        tuple(regions),
        count,
        sample.left_out,
    )


def kendall_w(ranks: Float[np.ndarray, "*b m r"]) -> Float[np.ndarray, "*b"]:
    """Kendall and Babington Smith 1939, with the correction for ties; 0 where every method ties all regions."""
    m, r = ranks.shape[-2:]
    spread = ((ranks.sum(-2) - m * (r + 1) / 2) ** 2).sum(-1)
    # Within a method the squares of ranks fall short of those of 1..r by (t³ - t) / 12 per tie of t.
    within = ((ranks - (r + 1) / 2) ** 2).sum((-1, -2))
    return np.divide(spread, m * within, out=np.zeros_like(spread), where=within > 0)


def icc(ratings: Float[np.ndarray, "*b targets raters"]) -> Float[np.ndarray, "*b"]:
    """ICC(2,1) of Shrout and Fleiss 1979: two-way random effects, absolute agreement of single ratings."""
    n, k = ratings.shape[-2:]
    mean = ratings.mean((-1, -2), keepdims=True)
    rows, raters = ratings.mean(-1, keepdims=True) - mean, ratings.mean(-2, keepdims=True) - mean
    between = k * (rows**2).sum((-1, -2)) / (n - 1)
    judges = n * (raters**2).sum((-1, -2)) / (k - 1)
    error = ((ratings - mean - rows - raters) ** 2).sum((-1, -2)) / ((n - 1) * (k - 1))
    whole = between + (k - 1) * error + k * (judges - error) / n
    return np.divide(between - error, whole, out=np.zeros_like(whole), where=whole > 0)
