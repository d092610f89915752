"""Does the group change how scores spread over the regions? A linear mixed model over images of patients of folds.

clr(score) ~ region × (group + covariates) + (region | patient) + (region | fold), clr = log score minus its mean over
the regions of the image (Aitchison 1982). As clr sums to 0 in each image, the r regions hold r - 1 independent numbers,
and an intercept of image, patient or fold is 0 for all: fitted as it stands, the model would take its errors for too
small by sqrt((r - 1) / r) and its covariates for nothing. It is fitted in r - 1 orthonormal coordinates of clr (ilr;
Egozcue et al. 2003), with effects of patient and fold that spread over regions, and reported per region.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num, Shaped
from scipy.linalg import helmert
from scipy.stats import f as fisher
from scipy.stats import t as student
from statsmodels.api import OLS, MixedLM
from statsmodels.regression.mixed_linear_model import VCSpec

from cfxai.errors import DataError
from cfxai.regions.statistics.multiplicity import holm
from cfxai.regions.statistics.patients import Ids, require_patients
from cfxai.regions.statistics.sentences import counted, left_out, number, p_value, sentence

LEAST = 8
"""Patients, beside one for each covariate."""


@dataclass(frozen=True)
class RegionEffect:
    """How much higher the region's log share is in abnormal images, all else equal; 0 on average over regions.

    Attributes:
        difference: low, high: its 95 % interval. adjusted_p: by Holm over the `family` of regions.
    """

    name: str
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float
    family: int

    @property
    def sentence(self) -> str:
        size = f"{number(self.difference)} (95 % CI {number(self.low)} to {number(self.high)})"
        adjusted = f"{p_value(self.adjusted_p, 'Holm p')} in a family of {self.family}"
        return sentence([f"{self.name}: log share {size}", f"{p_value(self.p)}, {adjusted}"])


@dataclass(frozen=True)
class MixedModel:
    """The fit.

    Attributes:
        interaction_p: group × region, a Wald F test of all regions at once; NaN, as all p-values and intervals, where
            the fit did not converge.
        deviations: standard deviations on the log scale, of `image` (the rest), `patient` and `fold` where fitted.
        patients: in abnormal images, in normal ones; a patient may be in both.
        notes: what the fit complained of, in words.
    """

    interaction_p: float
    effects: tuple[RegionEffect, ...]
    deviations: dict[str, float]
    patients: tuple[int, int]
    images: int
    left_out: int
    covariates: int
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        parts = [f"group × region: {p_value(self.interaction_p)}"]
        parts.append(", ".join(f"{name} SD {number(value)}" for name, value in self.deviations.items()))
        counts = f"{counted(self.images, 'image')} of {counted(self.patients[0], 'patient')} abnormal"
        parts.append(f"{counts}, {self.patients[1]} normal")
        if self.covariates:
            parts.append(f"adjusted for {counted(self.covariates, 'covariate')}")
        return sentence([*parts, *left_out(self.left_out), *self.notes])


def mixed_model(
    clr: Num[np.ndarray, "n r"],
    labels: Int[np.ndarray, " n"],
    patients: Ids,
    regions: Sequence[str],
    *,
    covariates: Num[np.ndarray, "n c"] | None = None,
    folds: Int[np.ndarray, " n"] | None = None,
) -> MixedModel:
    """Fits the model by REML; a patient may have several images, also of both groups.

    Patient effects need patients with several images, fold effects the number of the fold whose network explained each
    image. Tests use t and F with as many degrees of freedom as there are patients less the patients' coefficients,
    which errs on the side of caution.

    Args:
        clr: log-ratios of the scores, as `cfxai.regions.scores.clr` gives them; their logs do as well, since what the
            regions of an image share drops out. labels: 0 = normal.
        covariates: numbers; classes as 0 / 1.

    Raises:
        DataError: the logarithm of 0, too few patients or regions, covariates that determine the group, a patient in
            several folds, or variances that statsmodels finds no fit for.
    """
    if len(regions) < 2:
        raise DataError("How scores spread over regions takes two regions or more.")
    if np.isinf(clr).any():
        raise DataError(f"{int(np.isinf(clr).sum())} scores have no logarithm: replace zeros, as scores.clr does.")
    beside = np.zeros((len(clr), 0)) if covariates is None else np.asarray(covariates, float)
    complete = np.isfinite(clr).all(1) & np.isfinite(beside).all(1)
    values, member, beside = np.asarray(clr, float)[complete], labels[complete] != 0, beside[complete]
    ids, names = pd.factorize(np.asarray(patients)[complete])
    size = len(np.unique(ids[member])), len(np.unique(ids[~member]))
    for group, count in zip(("abnormal", "normal"), size, strict=True):
        require_patients(count, LEAST // 2, f"A mixed model ({group} images)")
    require_patients(len(names), LEAST + beside.shape[1], f"A mixed model of {beside.shape[1]} covariates")
    freedom = len(names) - 2 - beside.shape[1]
    design = np.column_stack([np.ones(len(ids)), member, beside - beside.mean(0)])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError("The covariates determine the group or each other: leave one of them out.")
    basis = helmert(len(regions)).T  # [r, r - 1]
    coordinates = values @ basis
    if folds is None:
        fit = _fit(coordinates, design, ids)
    else:
        _require_nested(ids, folds[complete], names)
        fit = _fit(coordinates, design, ids, folds[complete])
    return MixedModel(
        interaction_p=_joint(fit, freedom),
        effects=_per_region(fit, basis, regions, freedom),
        deviations=fit.deviations,
        patients=size,
        images=len(ids),
        left_out=int((~complete).sum()),
        covariates=beside.shape[1],
        notes=fit.notes,
    )


@dataclass(frozen=True)
class _Fit:
    """The group's coefficient in each coordinate and their covariance; NaN where the fit did not converge."""

    group: Float[np.ndarray, " a"]
    covariance: Float[np.ndarray, "a a"]
    deviations: dict[str, float]
    notes: tuple[str, ...]


def _fit(
    coordinates: Float[np.ndarray, "n a"],
    design: Float[np.ndarray, "n d"],
    patient: Int[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"] | None = None,
) -> _Fit:
    """Coefficients of their own for each coordinate, one variance for all, whatever the orthonormal basis."""
    n, axes = coordinates.shape
    y, x, axis = coordinates.ravel(), np.kron(design, np.eye(axes)), np.tile(np.arange(axes), n)
    group = slice(axes, 2 * axes)
    several = np.bincount(patient).max() > 1
    if fold is None and not several:
        plain = OLS(y, x).fit()
        return _Fit(plain.params[group], plain.cov_params()[group, group], {"image": float(plain.scale**0.5)}, ())
    outer = np.repeat(patient if fold is None else fold, axes) * axes + axis
    inner = np.repeat(patient, axes) if fold is not None and several else None
    model = MixedLM(y, x, groups=outer, exog_re=np.ones((len(y), 1)), exog_vc=_nested(outer, inner))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Without derivatives: those vanish where a variance is 0, and the default optimizers stop short of it.
        try:
            mixed = model.fit(reml=True, method="powell", ftol=1e-6)
        except np.linalg.LinAlgError as error:
            raise DataError(
                "The mixed model cannot be fitted, as patients or folds do not differ: leave out folds, or use "
                "compare_groups."
            ) from error
    variances = {"image": mixed.scale, "patient" if fold is None else "fold": float(mixed.cov_re[0, 0])}
    if inner is not None:
        variances["patient"] = float(mixed.vcomp[0])
    notes = [
        f"the variance between {name}s is estimated as 0" for name, v in variances.items() if v < 1e-6 * mixed.scale
    ]
    covariance = mixed.cov_params()[group, group]
    if not (mixed.converged and np.isfinite(covariance).all()):
        covariance = np.full((axes, axes), np.nan)
        notes.insert(0, "the fit did not converge, so no p-value is given")
    notes += sorted({f"statsmodels: {warning.message}".rstrip(".") for warning in caught})
    return _Fit(mixed.fe_params[group], covariance, {k: float(v**0.5) for k, v in variances.items()}, tuple(notes))


def _nested(outer: Int[np.ndarray, " n"], inner: Int[np.ndarray, " n"] | None) -> VCSpec | None:
    """Patients within the groups of a fold, as indicator columns."""
    if inner is None:
        return None
    blocks = [pd.get_dummies(inner[outer == label]).astype(float) for label in np.unique(outer)]
    return VCSpec(["patient"], [[list(block.columns) for block in blocks]], [[block.to_numpy() for block in blocks]])


def _require_nested(
    patient: Int[np.ndarray, " n"], fold: Int[np.ndarray, " n"], names: Shaped[np.ndarray, " p"]
) -> None:
    several = pd.Series(fold).groupby(patient).nunique().to_numpy() > 1
    if several.any():
        raise DataError(
            f"Patient {names[several.argmax()]} is in several folds: give each image the fold that tested it."
        )


def _joint(fit: _Fit, freedom: int) -> float:
    """Wald's test that the group moves no coordinate."""
    wald = fit.group @ np.linalg.solve(fit.covariance, fit.group) / len(fit.group)
    return float(fisher.sf(wald, len(fit.group), freedom))


def _per_region(
    fit: _Fit, basis: Float[np.ndarray, "r a"], regions: Sequence[str], freedom: int
) -> tuple[RegionEffect, ...]:
    difference, error = basis @ fit.group, np.sqrt(np.diag(basis @ fit.covariance @ basis.T))
    half = student.ppf(0.975, freedom) * error
    p = 2 * student.sf(np.abs(difference) / error, freedom)
    adjusted = holm(p) if np.isfinite(p).all() else p
    return tuple(
        RegionEffect(name, float(d), float(d - h), float(d + h), float(alone), float(within), len(regions))
        for name, d, h, alone, within in zip(regions, difference, half, p, adjusted, strict=True)
    )
