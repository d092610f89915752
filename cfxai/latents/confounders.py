"""Directions of latent space along which something changes that an explanation is to leave alone."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Shaped
from scipy.linalg import orth
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cfxai.errors import DataError
from cfxai.latents.heads import logistic_regression
from cfxai.latents.penalty import fit_best, folds

RIDGE_ALPHA = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)
DEPENDENT = 1e-6
"""Directions whose shares beside the others are shorter than this add nothing."""


def confounder_directions(
    z: Float[np.ndarray, "n d"],
    covariates: Mapping[str, Shaped[np.ndarray, " n"]],
    groups: Shaped[np.ndarray, " n"] | None = None,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "c d"]:
    """Orthonormal directions that span those which predict the covariates, by name; c <= d.

    A covariate of numbers has one direction, by ridge regression; of two values, by logistic regression; of names, one
    for each of them against the rest. Penalties are chosen by five-fold cross-validation, by R² and ROC-AUC.

    Raises:
        DataError: a covariate that is not finite or the same everywhere, or has a value too rare.
    """
    found = []
    for name, covariate in covariates.items():
        try:
            found += [_direction(z, column, groups, seed) for column in _columns(covariate)]
        except DataError as error:
            raise DataError(f"Covariate {name}: {error}") from None
    return orth(np.stack(found).T, rcond=DEPENDENT).T


def _columns(covariate: Shaped[np.ndarray, " n"]) -> Iterator[Float[np.ndarray, " n"]]:
    """The numbers to predict: of names, whether it is each of them; one of two says it all."""
    values = np.unique(covariate)
    if len(values) < 2:
        raise DataError(f"It is {values[0]} everywhere; leave it out.")
    if covariate.dtype.kind in "fiub":
        yield covariate.astype(float)
    else:
        yield from ((covariate == value).astype(float) for value in values[len(values) == 2 :])


def _direction(
    z: Float[np.ndarray, "n d"],
    covariate: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None,
    seed: int,
) -> Float[np.ndarray, " d"]:
    """Of length 1."""
    if not np.isfinite(covariate).all():
        raise DataError("It has values that are not finite; fill them in, or leave the rows out.")
    values, level = np.unique(covariate, return_inverse=True)
    if len(values) == 2:
        model, _ = logistic_regression(z, level, folds(level, groups, apart=level, seed=seed), "roc_auc")
        coefficients = model.named_steps["model"].coef_[0]
    else:
        ridge = Pipeline([("scale", StandardScaler()), ("model", Ridge())])
        halves = (covariate > np.median(covariate)).astype(int)
        divisions = folds(halves, groups, apart=np.zeros(len(z)), seed=seed)
        model, _ = fit_best(ridge, {"model__alpha": RIDGE_ALPHA}, z, covariate, divisions, "r2")
        coefficients = model.named_steps["model"].coef_
    weight = coefficients / model.named_steps["scale"].scale_
    return weight / np.linalg.norm(weight)
