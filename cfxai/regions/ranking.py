"""Whether, within one image, the affected regions score highest."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Ranking:
    """Per image, how well the order of the regions by score agrees with their findings; NaN where nothing is ordered.

    Attributes:
        ndcg: normalised discounted cumulative gain, the gain being the severity, in (0, 1] (Järvelin & Kekäläinen
            2002); NaN where all regions are equally affected.
        auc: probability that an affected region scores higher than one that is not, ties half; NaN without both kinds.
    """

    ndcg: Float[np.ndarray, " n"]
    auc: Float[np.ndarray, " n"]


def rank_regions(scores: Float[np.ndarray, "n r"], severity: Float[np.ndarray, "n r"]) -> Ranking:
    """Regions that have a score and a severity, ranked in each image; ties in any order, on average."""
    there = ~(np.isnan(scores) | np.isnan(severity))
    gain = np.where(there, severity, 0)
    score = np.where(there, scores, -np.inf)
    affected, spared = there & (gain > 0), there & (gain == 0)
    above = score[:, :, None] > score[:, None]
    level = score[:, :, None] == score[:, None]
    pairs = affected[:, :, None] & spared[:, None]
    differ = np.where(there, severity, -np.inf).max(1) > np.where(there, severity, np.inf).min(1)
    with np.errstate(invalid="ignore"):
        auc = ((above + level / 2) * pairs).sum((1, 2)) / pairs.sum((1, 2))
        ndcg = np.where(differ, _dcg(score, gain, there) / _dcg(gain, gain, there), np.nan)
    return Ranking(ndcg, auc)


def _dcg(score: Float[np.ndarray, "n r"], gain: Float[np.ndarray, "n r"], there: np.ndarray) -> Float[np.ndarray, " n"]:
    """Σ gain / log2(1 + rank), each of several equal scores with the mean discount of their ranks."""
    valid = there[:, None]
    before = ((score[:, None] > score[:, :, None]) & valid).sum(2)
    equal = np.maximum(((score[:, None] == score[:, :, None]) & valid).sum(2), 1)
    discount = np.cumsum(1 / np.log2(np.arange(2, score.shape[1] + 2)))
    upto = np.concatenate([[0.0], discount])
    return (gain * (upto[before + equal] - upto[before]) / equal).sum(1)
