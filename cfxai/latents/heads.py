"""Fitting heads: which linear read-out of latents tells a finding, a grade or a class."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from scipy.optimize import minimize_scalar
from scipy.special import log_expit
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cfxai.errors import DataError
from cfxai.latents.linear_head import LinearHead, linear_head, ordered_head
from cfxai.latents.penalty import Folds, fit_best, folds
from cfxai.latents.proportional_odds import ProportionalOdds

Kind = Literal["logistic", "svm", "lda", "ordinal", "ols_distance", "multinomial"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Saved latent spaces have a kind's place here: new ones come last."""
GRADED = ("ordinal", "ols_distance")
"""Those whose answer is a grade; `multinomial` has classes without order, the others tell normal from any finding."""

# From the strongest penalty to the weakest.
LOGISTIC_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
SVM_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ORDINAL_L2 = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
PUBLISHED_C = 1.0
MOST_ITERATIONS = 300_000
"""Of the SVM's solver: nine times what latents of a published size need; features of a huge scale would never end."""


@dataclass(frozen=True)
class FittedHead:
    """A head and how it was fitted.

    Attributes:
        penalty: `C` or `l2`, empty where there is none; of SVMs also `latents`, "raw" or "scaled" to unit variance.
        note: what to know of it.
    """

    head: LinearHead
    penalty: dict[str, float | str]
    note: str | None = None


@dataclass(frozen=True)
class Training:
    """The latents a head is fitted to: z [n d], labels [n] with 0 = normal, groups [n] or None."""

    z: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"] | None
    seed: int

    @property
    def finding(self) -> Int[np.ndarray, " n"]:
        return (self.labels > 0).astype(int)

    def folds(self, apart: Int[np.ndarray, " n"]) -> Folds:
        return folds(self.labels, self.groups, apart=apart, seed=self.seed)


def fit_head(
    kind: Kind,
    z: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    *,
    seed: int = 0,
) -> FittedHead:
    """Fits a head; the penalty is the best of its grid by five-fold cross-validation on these very latents.

    Args:
        labels: 0 = normal, above it grades or classes.
        groups: patients, who stay within a fold.
        seed: of the folds.

    Raises:
        DataError: no normal training latent or none with a finding, too few of either for cross-validation, or latents
            that are all the same.
    """
    for what, there in (("normal (label 0)", labels == 0), ("with a finding (label above 0)", labels > 0)):
        if not there.any():
            raise DataError(f"No training case is {what}; a head needs both.")
    if not np.ptp(z, axis=0).any():
        raise DataError("All training latents are the same: no head can tell anything from them.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties tried; of the one chosen `note` tells
        return FITS[kind](Training(np.asarray(z, float), labels, groups, seed))


def _logistic(training: Training) -> FittedHead:
    """L2-penalised logistic regression on standardised latents; C by ROC-AUC."""
    model, chosen = logistic_regression(training.z, training.finding, training.folds(training.finding), "roc_auc")
    return FittedHead(_standardised(model), {"C": chosen["model__C"]})


def _multinomial(training: Training) -> FittedHead:
    """Multinomial logistic regression on standardised latents; C by log-likelihood."""
    labels = training.labels
    model, chosen = logistic_regression(training.z, labels, training.folds(labels), "neg_log_loss")
    scaler, fitted = model.named_steps["scale"], model.named_steps["model"]
    head = linear_head(scaler.mean_, fitted.coef_ / scaler.scale_, fitted.intercept_, fitted.classes_)
    return FittedHead(head, {"C": chosen["model__C"]})


def logistic_regression(
    z: Float[np.ndarray, "n d"], target: Int[np.ndarray, " n"], folds: Folds, scoring: str
) -> tuple[Pipeline, dict[str, float]]:
    """The best over `LOGISTIC_C`: steps `scale` and `model`, and the values chosen."""
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression(max_iter=5000))])
    return fit_best(pipeline, {"model__C": LOGISTIC_C}, z, target, folds, scoring)


def _svm(training: Training) -> FittedHead:
    """A linear SVM: the published one, C = 1 on latents as they are, unless another C on standardised latents has a
    balanced accuracy that is more than a standard error better.

    It is not chosen by ROC-AUC, as the hyperplane counts: under a strong penalty it may lie beside all latents and
    still rank them well. Probabilities are sigmoid(score / temperature), the temperature by likelihood on held-out
    folds: 0.5 stays on the hyperplane.
    """
    z, finding, divisions = training.z, training.finding, training.folds(training.finding)
    pipeline = Pipeline([("scale", "passthrough"), ("model", _machine())])
    published = {"model__C": (PUBLISHED_C,)}
    others = {"scale": (StandardScaler(),), "model__C": SVM_C}
    model, chosen = fit_best(
        pipeline, [published, others], z, finding, divisions, "balanced_accuracy", prefer_first=True
    )
    held_out = [(clone(model).fit(z[a], finding[a]).decision_function(z[b]), finding[b]) for a, b in divisions]
    sharpness = _sharpness(*map(np.concatenate, zip(*held_out, strict=True)))
    machine, origin = model.named_steps["model"], z.mean(0)
    weight = machine.coef_[0] / (model.named_steps["scale"].scale_ if "scale" in chosen else 1.0)
    at_origin = model.decision_function(origin[None])[0]
    head = ordered_head(origin, sharpness * weight, sharpness * at_origin)
    penalty = {"C": chosen["model__C"], "latents": "scaled" if "scale" in chosen else "raw"}
    return FittedHead(head, penalty, _unfinished(machine))


def _lda(training: Training) -> FittedHead:
    """Linear discriminant analysis; its covariance is shrunk as Ledoit and Wolf derive, with nothing to choose."""
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(training.z, training.finding)
    origin, weight = training.z.mean(0), model.coef_[0]
    return FittedHead(ordered_head(origin, weight, model.intercept_[0] + weight @ origin), {})


def _ordinal(training: Training) -> FittedHead:
    """Proportional odds on standardised latents; l2 by the absolute error of the median grade."""
    pipeline = Pipeline([("scale", StandardScaler()), ("model", ProportionalOdds())])
    divisions = training.folds(training.finding)
    grid = {"model__l2": ORDINAL_L2}
    model, chosen = fit_best(pipeline, grid, training.z, training.labels, divisions, "neg_mean_absolute_error")
    scaler, fitted = model.named_steps["scale"], model.named_steps["model"]
    head = ordered_head(
        scaler.mean_, fitted.coef_ / scaler.scale_, 0.0, grades=fitted.classes_, thresholds=fitted.thresholds_
    )
    return FittedHead(head, {"l2": chosen["model__l2"]})


def _ols_distance(training: Training) -> FittedHead:
    """Least squares of the grade on the distance d = (w · z + b) / ‖w‖ to the hyperplane of a linear SVM.

    As in Atad et al. 2024, arXiv:2408.01571: the SVM tells normal from any finding at C = 1 on latents as they are,
    and distances are those of the training latents. The score is the estimated grade in units of a logistic
    distribution's scale with the residuals' spread, so that thresholds half-way between grades give probabilities.
    """
    z, labels = training.z, training.labels
    model = _machine(C=PUBLISHED_C).fit(z, training.finding)
    length, origin = np.linalg.norm(model.coef_), z.mean(0)
    distance = model.decision_function(z) / length
    slope, constant = np.polyfit(distance, labels, 1)
    spread = max(float(np.std(slope * distance + constant - labels)), 1e-3)
    unit = spread * np.sqrt(3) / np.pi
    weight = slope * model.coef_[0] / length
    at_origin = slope * model.decision_function(origin[None])[0] / length + constant
    grades = np.unique(labels)
    head = ordered_head(
        origin,
        weight / unit,
        at_origin / unit,
        grades=grades,
        thresholds=(grades[1:] + grades[:-1]) / 2 / unit,
        centres=grades / unit,
    )
    return FittedHead(head, {"C": PUBLISHED_C, "latents": "raw"}, _unfinished(model))


FITS: dict[Kind, Callable[[Training], FittedHead]] = {
    "logistic": _logistic,
    "svm": _svm,
    "lda": _lda,
    "ordinal": _ordinal,
    "ols_distance": _ols_distance,
    "multinomial": _multinomial,
}


def _standardised(model: Any) -> LinearHead:
    """A binary head fitted on (z - mean) / sd, for z."""
    scaler, fitted = model.named_steps["scale"], model.named_steps["model"]
    return ordered_head(scaler.mean_, fitted.coef_[0] / scaler.scale_, fitted.intercept_[0])


def _machine(**settings: float) -> SVC:
    return SVC(kernel="linear", cache_size=500, max_iter=MOST_ITERATIONS, **settings)


def _unfinished(model: SVC) -> str | None:
    if int(model.n_iter_.max()) < MOST_ITERATIONS:
        return None
    return f"the SVM's solver was stopped after {MOST_ITERATIONS} iterations: C = {model.C:g} does not suit this scale"


def _sharpness(score: Float[np.ndarray, " n"], finding: Int[np.ndarray, " n"]) -> float:
    """1 / temperature; positive, so that a score that is no better than chance keeps its sign."""
    signed = score * (2 * finding - 1)
    found = minimize_scalar(lambda log: -log_expit(np.exp(log) * signed).mean(), bounds=(-7, 7), method="bounded")
    return float(np.exp(found.x))
