"""Directions of latent space along which something changes that an explanation is to leave alone."""

import numpy as np
from jaxtyping import Float, Num, Shaped
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cfxai.errors import DataError
from cfxai.latents.heads import logistic_regression
from cfxai.latents.penalty import fit_best, folds

RIDGE_ALPHA = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)


def confounder_directions(
    z: Float[np.ndarray, "n d"],
    covariates: Num[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "c d"]:
    """The direction that predicts each covariate, of length 1: by ridge, of two values by logistic regression.

    Penalties are chosen by five-fold cross-validation, by R² and ROC-AUC.

    Raises:
        DataError: a covariate that is not finite or the same everywhere, or of two values one of which is too rare.
    """
    found = []
    for number, covariate in enumerate(covariates.T):
        try:
            found.append(_direction(z, covariate, groups, seed))
        except DataError as error:
            raise DataError(f"Covariate {number}: {error}") from None
    return np.stack(found)


def _direction(
    z: Float[np.ndarray, "n d"],
    covariate: Num[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None,
    seed: int,
) -> Float[np.ndarray, " d"]:
    if not np.isfinite(covariate).all():
        raise DataError("It has values that are not finite; fill them in, or leave the rows out.")
    values, level = np.unique(covariate, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"It is {values[0]:g} everywhere; leave it out.")
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
