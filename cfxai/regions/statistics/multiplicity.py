"""Adjusted p-values of a declared family of tests."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import false_discovery_control

Correction = Literal["holm", "bh", "by"]


@dataclass(frozen=True)
class Adjusted:
    """A family's p-values, adjusted.

    Attributes:
        p: in the order they were given.
        correction: `holm` bounds the chance of any false positive; `bh` the expected share of false positives among
            the positives of independent or positively dependent tests, `by` under any dependence.
        family: number of tests.
    """

    p: Float[np.ndarray, " k"]
    correction: Correction
    family: int


def adjust(p: Float[np.ndarray, " k"], correction: Correction = "holm") -> Adjusted:
    """Holm 1979, Benjamini and Hochberg 1995 (bh), Benjamini and Yekutieli 2001 (by)."""
    adjusted = holm(p) if correction == "holm" else false_discovery_control(p, method=correction)
    return Adjusted(adjusted, correction, len(p))


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The i-th smallest of k p-values times k - i, counted from 0, then made non-decreasing and at most 1."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted
