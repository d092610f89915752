"""The difference between two groups when covariates are held equal: least squares, score ~ group + covariates."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from cfxai.regions.statistics.effects import interval
from cfxai.regions.statistics.permutation import quotient

Rows = Int[np.ndarray, "..."]


@dataclass(frozen=True)
class GroupFit:
    """The group's coefficient in each column of scores.

    Attributes:
        scores: [n k], without what the fit gives to the covariates; their group means differ by `difference`.
        difference, error: [k], the coefficient, members minus the others, and its standard error.
        freedom: [k], degrees of freedom. Without covariates error and freedom are Welch's.
    """

    scores: Float[np.ndarray, "n k"]
    difference: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    freedom: Float[np.ndarray, " k"]


def adjust_for(
    scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"], covariates: Float[np.ndarray, "n c"]
) -> GroupFit:
    """Fits every column; Welch's difference of means without covariates."""
    if not covariates.shape[1]:
        return _welch(scores, member)
    design = _design(member, covariates)
    coefficients = np.linalg.lstsq(design, scores)[0]
    residuals = scores - design @ coefficients
    freedom = len(design) - design.shape[1]
    error = np.sqrt((residuals**2).sum(0) / freedom * np.linalg.inv(design.T @ design)[1, 1])
    cleaned = scores - design[:, 2:] @ coefficients[2:]
    return GroupFit(cleaned, coefficients[1], error, np.full(len(error), float(freedom)))


def difference_interval(
    scores: Float[np.ndarray, "n k"],
    member: Bool[np.ndarray, " n"],
    covariates: Float[np.ndarray, "n c"],
    seed: int = 0,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """95 % BCa interval of each column's coefficient; patients are resampled within their group, with covariates."""
    if not covariates.shape[1]:
        return interval((scores[member].T, scores[~member].T), _mean_difference, seed=seed)
    design, groups = _design(member, covariates), (np.flatnonzero(member), np.flatnonzero(~member))

    def coefficient(first: Rows, second: Rows, axis: int, *, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "..."]:
        rows = np.concatenate([first, second], axis=axis)
        x = design[rows]
        # pinv: a resample may have one value only of a covariate
        gram = np.linalg.pinv(np.swapaxes(x, -1, -2) @ x, hermitian=True)
        return np.asarray((gram[..., 1, :] * (y[rows][..., None] * x).sum(-2)).sum(-1))

    bounds = [interval(groups, partial(coefficient, y=y), seed=seed) for y in scores.T]
    return np.array([low for low, _ in bounds]), np.array([high for _, high in bounds])


def _welch(scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"]) -> GroupFit:
    high, low = scores[member], scores[~member]
    errors = [group.var(0, ddof=1) / len(group) for group in (high, low)]
    total = errors[0] + errors[1]
    spread = errors[0] ** 2 / (len(high) - 1) + errors[1] ** 2 / (len(low) - 1)
    return GroupFit(scores, high.mean(0) - low.mean(0), np.sqrt(total), quotient(total**2, spread))


def _design(member: Bool[np.ndarray, " n"], covariates: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n d"]:
    return np.column_stack([np.ones(len(member)), member, covariates - covariates.mean(0)])


def _mean_difference(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    return a.mean(axis) - b.mean(axis)
