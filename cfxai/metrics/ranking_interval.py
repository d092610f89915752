"""How sure AUROC and average precision are: their bootstrap over patients."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

AT_ONCE = 100
"""Bootstrap samples; their cumulative counts at every threshold are in memory together."""


def ranking_interval(
    score: Float[ndarray, " n"],
    positive: Bool[ndarray, " n"],
    group: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[float] | None, list[float] | None]:
    """The 95 % percentile intervals of AUROC and of average precision.

    Patients are drawn with all of their images; samples that hold one side only do not count. None with less than two
    patients, or without images of both sides.
    """
    patients, patient = np.unique(group, return_inverse=True)
    if len(patients) < 2 or positive.all() or not positive.any():
        return None, None
    order = np.argsort(-score, kind="stable")
    score, positive, patient = score[order], positive[order], patient[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of the images with the same score
    found = [_areas(times[:, patient], positive, last) for times in _times_drawn(len(patients), resamples, seed)]
    auroc, precision = np.concatenate(found, 1)
    return _percentiles(auroc), _percentiles(precision)


def _times_drawn(patients: int, resamples: int, seed: int) -> Iterator[ndarray]:
    random = np.random.default_rng(seed)
    for start in range(0, resamples, AT_ONCE):
        yield random.multinomial(patients, np.full(patients, 1 / patients), min(AT_ONCE, resamples - start))


def _areas(weight: ndarray, positive: Bool[ndarray, " n"], last: ndarray) -> Float[ndarray, "two r"]:
    """AUROC and average precision of images in falling order of their score, each counted `weight[:, image]` times."""
    hits = np.cumsum(weight * positive, 1)[:, last].astype(float)
    false = np.cumsum(weight * ~positive, 1)[:, last].astype(float)
    both = (hits[:, -1] > 0) & (false[:, -1] > 0)
    hits, false = hits[both], false[both]
    new_hits, new_false = np.diff(hits, prepend=0), np.diff(false, prepend=0)
    auroc = (new_false * (hits - new_hits / 2)).sum(1) / (hits[:, -1] * false[:, -1])
    precision = hits / np.maximum(hits + false, 1)
    return np.stack([auroc, (new_hits * precision).sum(1) / hits[:, -1]])


def _percentiles(values: Float[ndarray, " r"]) -> list[float] | None:
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])] if values.size else None
