"""Permutation p-values of many columns at once, and their single-step max-T adjustment.

Westfall and Young 1993, Resampling-Based Multiple Testing, algorithm 2.5: a column's adjusted p-value is the share of
permutations whose largest |statistic| over all columns reaches its own. Columns are permuted together, so regions and
methods that move together cost less than Bonferroni takes for them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CHUNK = 2**22
"""Numbers in a block of permutations, which bounds memory."""


@dataclass(frozen=True)
class Permuted:
    """A two-sided permutation test of every column.

    Attributes:
        statistic: [k], observed.
        p: [k], of each column by itself. adjusted: [k], max-T over all columns.
        draws: permutations looked at. exact: they were all that there are.
    """

    statistic: Float[np.ndarray, " k"]
    p: Float[np.ndarray, " k"]
    adjusted: Float[np.ndarray, " k"]
    draws: int
    exact: bool


def against_permutations(
    observed: Float[np.ndarray, " k"], permuted: Iterable[Float[np.ndarray, "b k"]], exact: bool
) -> Permuted:
    """Counts the permuted statistics that reach the observed ones.

    Args:
        permuted: blocks of statistics; all permutations, the identity among them, when `exact`, else random ones, to
            which the observed is added (Phipson and Smyth 2010), so that no p-value is 0.
    """
    reached = np.abs(observed) * (1 - 1e-9) - 1e-9  # equal up to rounding counts as reached
    alone, largest, draws = np.zeros(len(observed)), np.zeros(len(observed)), 0
    for block in permuted:
        size = np.abs(block)
        alone += (size >= reached).sum(0)
        largest += (size.max(1, keepdims=True) >= reached).sum(0)
        draws += len(block)
    added = 0 if exact else 1
    return Permuted(observed, (alone + added) / (draws + added), (largest + added) / (draws + added), draws, exact)


def quotient(part: Float[np.ndarray, "*s"], whole: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """part / whole, infinite over 0, and 0 for 0 / 0: no difference where nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(part / whole, nan=0.0, posinf=np.inf, neginf=-np.inf)
