"""Spearman's ρ and Kendall's τ-b of one variable with many rearranged or reweighted copies of another, at once.

The second variable has few levels (sums of severities), so both follow from one table of cumulated weights per level:
n log n + n · levels for each copy, where comparing all pairs would be n².
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BLOCK = 4_000_000
"""Numbers of an intermediate table at a time."""


@dataclass(frozen=True)
class Ranked:
    """One stratum, sorted by its score: where each item's ties begin and end, and the level of its severity.

    Attributes:
        begin, end: [n] positions of the first item of equal score, and of the first of a greater one.
        level: [n] number of each item's severity among the `levels` different ones, ascending.
    """

    begin: Int[np.ndarray, " n"]
    end: Int[np.ndarray, " n"]
    level: Int[np.ndarray, " n"]
    levels: int

    @classmethod
    def of(cls, score: Float[np.ndarray, " n"], severity: Float[np.ndarray, " n"]) -> "Ranked":
        order = np.argsort(score, kind="stable")
        ordered = score[order]
        values, level = np.unique(severity[order], return_inverse=True)
        return cls(np.searchsorted(ordered, ordered), np.searchsorted(ordered, ordered, "right"), level, len(values))

    def correlations(
        self, level: Int[np.ndarray, "copies n"], weight: Float[np.ndarray, "#copies n"]
    ) -> Float[np.ndarray, "copies 2"]:
        """ρ and τ-b of each copy, ties as usual (mid-ranks; τ-b); NaN where one variable is constant.

        Args:
            level: the severities' levels, rearranged.
            weight: how often each item counts.
        """
        weight = np.broadcast_to(weight, level.shape)
        return np.concatenate([self._block(level[some], weight[some]) for some in self._blocks(len(level))])

    def _blocks(self, copies: int) -> Iterator[slice]:
        step = max(1, BLOCK // (len(self.level) * self.levels))
        return (slice(start, start + step) for start in range(0, copies, step))

    def _block(
        self, level: Int[np.ndarray, "copies n"], weight: Float[np.ndarray, "copies n"]
    ) -> Float[np.ndarray, "copies 2"]:
        member = (level[..., None] == np.arange(self.levels)) * weight[..., None]
        counted = np.pad(member.cumsum(1), ((0, 0), (1, 0), (0, 0)))  # of each level among the first items
        lower, equal = counted[:, self.begin], counted[:, self.end] - counted[:, self.begin]
        totals = counted[:, -1]
        half = totals.sum(1, keepdims=True) / 2

        x = lower.sum(2) + equal.sum(2) / 2 - half  # mid-ranks, centred
        y = np.take_along_axis(totals.cumsum(1) - totals / 2, level, 1) - half

        def moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (weight * a * b).sum(1)

        below = np.cumsum(lower, 2)
        own = np.take_along_axis(lower, level[..., None], 2)[..., 0]
        upto = np.take_along_axis(below, level[..., None], 2)[..., 0]
        excess = (weight * (2 * upto - own - below[..., -1])).sum(1)  # concordant less discordant pairs
        pairs = 2 * half[:, 0] ** 2  # untied ones are: half of (Σw)² - Σ over ties of (their w)²
        untied_x = pairs - (weight * equal.sum(2)).sum(1) / 2
        untied_y = pairs - (totals**2).sum(1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            rho = moment(x, y) / np.sqrt(moment(x, x) * moment(y, y))
            tau = excess / np.sqrt(untied_x * untied_y)
        return np.stack([rho, tau], 1)
