"""The shortest moves of a latent that change linear scores as wanted, in closed form.

A metric is given by the symmetric matrix M [d d] whose inverse measures length, ‖δ‖² = δ' M⁻¹ δ: with the latents'
covariance that is Mahalanobis' length, with the identity Euclid's, and with the diagonal of standard deviations the way
goes along sd ⊙ w as in Atad et al. 2024, arXiv:2408.01571.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from cfxai.errors import ConfigError

DIRECTIONS = ("covariance", "weight", "published")
DEPENDENT = 1e-10
"""Relative to what is largest: directions this close to depending on each other do."""


def named_metric(
    direction: str, covariance: Float[np.ndarray, "d d"], sd: Float[np.ndarray, " d"]
) -> Float[np.ndarray, "d d"]:
    """M of a direction's name.

    Raises:
        ConfigError: there is no such direction.
    """
    match direction:
        case "covariance":
            return covariance
        case "weight":
            return np.eye(len(sd))
        case "published":
            return np.diag(sd)
    raise ConfigError(f"direction: choose one of {', '.join(DIRECTIONS)}, not '{direction}'.")


def least_move(
    change: Float[np.ndarray, "b m"], rows: Float[np.ndarray, "m d"], metric: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "b d"]:
    """The shortest δ with rows · δ = change: δ = M A' (A M A')⁻¹ change.

    Raises:
        ConfigError: a row that cannot change by itself.
    """
    gram = rows @ metric @ rows.T
    _require_independent(gram, rows, metric)
    return np.linalg.solve(gram, change.T).T @ rows @ metric


def least_move_beyond(
    change: Float[np.ndarray, "b m"], rows: Float[np.ndarray, "m d"], metric: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "b d"]:
    """The shortest δ with rows · δ >= change in every row: zero where no change is above 0.

    δ = M A' λ, where λ >= 0 solves the dual, min λ' A M A' λ / 2 - λ' change, a least-squares problem of m unknowns
    (Lawson and Hanson 1974, Solving Least Squares Problems, ch. 23).

    Raises:
        ConfigError: rows that cannot all change as much.
    """
    values, vectors = np.linalg.eigh(rows @ metric @ rows.T)
    kept = values > DEPENDENT * max(values.max(), np.finfo(float).tiny)
    root = np.sqrt(values[kept])
    factor, whitened = root[:, None] * vectors[:, kept].T, change @ vectors[:, kept] / root
    weights = np.stack([nnls(factor, wanted)[0] for wanted in whitened]).reshape(change.shape)
    move = weights @ rows @ metric
    if (move @ rows.T < change - 1e-6 * (1 + np.abs(change))).any():
        raise ConfigError("No latent beats every other class by this margin: their directions depend on each other.")
    return move


def holding(metric: Float[np.ndarray, "d d"], rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "d d"]:
    """The metric of moves that leave rows · δ = 0: M - M C' (C M C')⁻¹ C M; 0 where there is no other move."""
    if not len(rows):
        return metric
    across = metric @ rows.T
    left = metric - across @ np.linalg.pinv(rows @ across, rcond=DEPENDENT, hermitian=True) @ across.T
    return left if np.trace(left) > DEPENDENT * np.trace(metric) else np.zeros_like(metric)


def square_root(metric: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric R with R R = M: a step u makes the move R u of length ‖u‖."""
    values, vectors = np.linalg.eigh(metric)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def _require_independent(
    gram: Float[np.ndarray, "m m"], rows: Float[np.ndarray, "m d"], metric: Float[np.ndarray, "d d"]
) -> None:
    size = np.sqrt((rows**2).sum(1) * np.trace(metric) / len(metric))
    reach = np.sqrt(np.diag(gram).clip(0))
    if (reach > np.sqrt(DEPENDENT) * size).all():
        correlation = gram / np.outer(reach, reach)
        if np.linalg.eigvalsh(correlation)[0] > DEPENDENT:
            return
    raise ConfigError(
        "No move changes this score alone: the head is the same for all latents, or its direction is that of another "
        "attribute or of a confounder that is held fixed."
    )
