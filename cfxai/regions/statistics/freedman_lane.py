"""Two groups of patients who also differ in covariates: permutation of the residuals of the model without the group.

Freedman and Lane 1983, J. Business & Economic Statistics 1(4): fit score ~ covariates, permute its residuals, add them
back to its fitted values, and refit score ~ group + covariates. The fitted values drop out of the group's t, so only
residuals need be permuted.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from cfxai.errors import DataError
from cfxai.regions.statistics.permutation import CHUNK, Permuted, against_permutations, quotient


def permute_residuals(
    scores: Float[np.ndarray, "n k"],
    member: Bool[np.ndarray, " n"],
    covariates: Float[np.ndarray, "n c"],
    *,
    draws: int = 5000,
    seed: int = 0,
) -> Permuted:
    """Tests the group's coefficient of every column by its t in least squares with the covariates.

    Raises:
        DataError: the covariates determine the group, or each other.
    """
    n = len(scores)
    # Orthonormal: the reduced model (intercept, covariates), then what of the group lies outside of it.
    design = np.column_stack([np.ones(n), _standard(covariates), member])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError("The covariates determine the group or each other: leave one of them out.")
    basis, upper = np.linalg.qr(design)
    basis[:, -1] *= np.sign(upper[-1, -1])
    reduced = basis[:, :-1]
    residuals = scores - scores.mean(0)
    residuals = residuals - reduced @ (reduced.T @ residuals)
    total, freedom = (residuals**2).sum(0), n - design.shape[1]

    def statistic(permuted: Float[np.ndarray, "b n d"]) -> Float[np.ndarray, "b k"]:
        projected = np.swapaxes(permuted, 1, 2) @ residuals
        error = (total - (projected**2).sum(1)).clip(0) / freedom
        return quotient(projected[:, -1], np.sqrt(np.where(error < 1e-13 * total, 0, error)))

    def blocks() -> Iterator[Float[np.ndarray, "b k"]]:
        random, block = np.random.default_rng(seed), max(1, CHUNK // design.size)
        for done in range(0, draws, block):
            order = np.tile(np.arange(n), (min(block, draws - done), 1))
            yield statistic(basis[random.permuted(order, axis=1)])

    return against_permutations(statistic(basis[None])[0], blocks(), exact=False)


def _standard(covariates: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    centred = covariates - covariates.mean(0)
    return centred / np.maximum(centred.std(0), np.finfo(float).tiny)
