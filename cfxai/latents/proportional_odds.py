"""Ordinal regression with one direction and a threshold between any two neighbouring grades."""

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin


class ProportionalOdds(ClassifierMixin, BaseEstimator):
    """P(y <= classes_[j] | z) = sigmoid(thresholds_[j] - coef_ · z) (McCullagh 1980, J. Royal Statistical Society B).

    Minimises the mean negative log-likelihood + l2 ‖coef‖² by L-BFGS; thresholds are not penalised.

    Attributes:
        classes_: [g], the labels seen in training, ascending, of any spacing.
        coef_: [d].
        thresholds_: [g - 1], ascending.
    """

    def __init__(self, *, l2: float = 0.3) -> None:
        self.l2 = l2

    def fit(self, z: Num[np.ndarray, "n d"], y: Shaped[np.ndarray, " n"]) -> "ProportionalOdds":
        self.classes_, level = np.unique(y, return_inverse=True)
        below = np.cumsum(np.bincount(level))[:-1] / len(level)
        self.coef_ = np.zeros(z.shape[1])
        self.thresholds_ = logit(below)
        start = np.concatenate([self.coef_, _gaps(self.thresholds_)])
        found = minimize(
            _objective,
            start,
            (np.asarray(z, float), level, len(below), self.l2),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-7},
        )
        self.coef_, self.thresholds_ = found.x[: -len(below)], _thresholds(found.x[-len(below) :])
        return self

    def decision_function(self, z: Num[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The score that the thresholds divide."""
        return z @ self.coef_

    def predict(self, z: Num[np.ndarray, "n d"]) -> Shaped[np.ndarray, " n"]:
        """The median label, which has the least expected absolute error."""
        return self.classes_[np.searchsorted(self.thresholds_, self.decision_function(z))]


def _gaps(thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The lowest, and the logarithms of the differences: any such numbers are thresholds in order."""
    return np.concatenate([thresholds[:1], np.log(np.diff(thresholds))])


def _thresholds(gaps: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return np.cumsum(np.concatenate([gaps[:1], np.exp(gaps[1:])]))


def _objective(
    parameters: Float[np.ndarray, " p"], z: Float[np.ndarray, "n d"], level: Int[np.ndarray, " n"], t: int, l2: float
) -> tuple[float, Float[np.ndarray, " p"]]:
    """The penalised mean negative log-likelihood and its gradient.

    With a = θ_j - s and b = θ_(j-1) - s, log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - exp(b - a)), which does not
    cancel; the outermost grades have one of the first two terms alone.
    """
    coef, gaps = parameters[:-t], parameters[-t:]
    thresholds, score = _thresholds(gaps), z @ coef
    above = np.append(thresholds, np.inf)[level] - score
    below = np.insert(thresholds, 0, -np.inf)[level] - score
    inner = np.isfinite(above) & np.isfinite(below)
    width = np.where(inner, np.append(np.exp(gaps[1:]), 1.0)[level - 1], 1.0)
    likelihood = log_expit(above) + log_expit(-below) + np.where(inner, np.log(-np.expm1(-width)), 0.0)
    steep = np.where(inner, 1 / np.expm1(width), 0.0)
    to_above, to_below = expit(-above) + steep, -expit(below) - steep
    to_threshold = np.bincount(level, to_above, t + 1)[:t] + np.bincount(level, to_below, t + 1)[1:]
    to_gap = np.cumsum(to_threshold[::-1])[::-1] * np.concatenate([[1.0], np.exp(gaps[1:])])
    n = len(level)
    gradient = np.concatenate([z.T @ (to_above + to_below) / n + 2 * l2 * coef, -to_gap / n])
    return float(l2 * coef @ coef - likelihood.mean()), gradient
