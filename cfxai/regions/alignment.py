"""Whether a region scores higher in the images whose findings there are more severe: no boxes or outlines needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from scipy.stats import spearmanr

from cfxai.errors import DataError
from cfxai.regions.rank_correlation import Ranked

LEAST = 5
"""Patients that a stratum needs: with fewer, even a perfect order is no evidence."""
BOUND = 0.999  # of a stratum's coefficient, so that a small stratum in perfect order does not outweigh all others


@dataclass(frozen=True)
class Correlation:
    """A coefficient pooled over strata, its confidence interval, and its two-sided permutation p."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Alignment:
    """One region's score against the severity of its findings.

    Attributes:
        region: its name.
        patients: that went in. strata: those that could be used.
        spearman, kendall: None where there is nothing to tell. problem: then, why; one sentence.
    """

    region: str
    patients: int
    strata: tuple[str, ...]
    spearman: Correlation | None
    kendall: Correlation | None
    problem: str | None = None


def align(
    scores: Float[np.ndarray, "n r"],
    severity: Float[np.ndarray, "n r"],
    *,
    regions: Sequence[str],
    strata: Sequence[str],
    patients: Sequence[str],
    repeats: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Alignment]:
    """Per region, rank correlations within strata, so that differences between classes are not taken for alignment.

    Images of one patient in one stratum are averaged first: the patient is the unit. A stratum is used if it has
    `LEAST` patients and neither variable is constant there. Coefficients are pooled by Fisher's z with the inverse of
    their variances, n - 3 for ρ and n - 4 for τ (Fieller et al. 1957). Permutations exchange severities within strata;
    the interval is the percentiles of a bootstrap of patients within strata.

    Args:
        scores: of regions, NaN where one is empty. severity: see `Findings.severity`; images with NaN are left out.
        strata: the class of each image. patients: the patient of each image.
        repeats: permutations, and bootstrap samples.
        confidence: of the intervals.
        seed: of both. The same for each region, whatever other regions there are.

    Raises:
        DataError: arguments of different lengths.
    """
    if not (scores.shape == severity.shape == (len(strata), len(regions)) and len(patients) == len(strata)):
        raise DataError(
            f"Findings cannot be aligned: {scores.shape} scores, {severity.shape} severities, {len(regions)} regions,"
            f" {len(strata)} classes and {len(patients)} patients do not match."
        )
    return [
        _align(
            region,
            pd.DataFrame({"stratum": strata, "patient": patients, "score": score, "severity": grade}),
            repeats,
            confidence,
            np.random.default_rng(seed),
        )
        for region, score, grade in zip(regions, scores.T, severity.T, strict=True)
    ]


def _align(region: str, rows: pd.DataFrame, repeats: int, confidence: float, random: np.random.Generator) -> Alignment:
    units = rows.dropna().groupby(["stratum", "patient"], as_index=False)[["score", "severity"]].mean()
    usable = {
        str(name): group
        for name, group in units.groupby("stratum")
        if len(group) >= LEAST and group["score"].nunique() > 1 and group["severity"].nunique() > 1
    }
    if not usable:
        problem = (
            f"{region}: no class has {LEAST} patients whose scores and severities differ;"
            f" {len(units)} patients have both."
        )
        return Alignment(region, units["patient"].nunique(), (), None, None, problem)
    found, permuted, resampled = [], [], []
    for group in usable.values():
        ranked = Ranked.of(group["score"].to_numpy(), group["severity"].to_numpy())
        n, once = len(group), np.ones((1, len(group)))
        found.append(ranked.correlations(ranked.level[None], once))
        shuffled = random.permuted(np.tile(ranked.level, (repeats, 1)), axis=1)
        permuted.append(ranked.correlations(shuffled, once))
        drawn = random.multinomial(n, np.full(n, 1 / n), size=repeats).astype(float)
        resampled.append(ranked.correlations(np.tile(ranked.level, (repeats, 1)), drawn))
    sizes = [len(group) for group in usable.values()]
    value, chance, spread = (_pooled(np.stack(each), sizes) for each in (found, permuted, resampled))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(spread, [tail, 1 - tail], axis=0)
    # Equal coefficients differ by rounding: count them as equal.
    p = (1 + (np.abs(chance) >= np.abs(value) - 1e-12).sum(0)) / (1 + repeats)
    both = [Correlation(*map(float, each)) for each in zip(value[0], low, high, p, strict=True)]
    patients = pd.concat(usable.values())["patient"].nunique()
    return Alignment(region, patients, tuple(usable), both[0], both[1])


def _pooled(coefficients: Float[np.ndarray, "strata copies 2"], sizes: Sequence[int]) -> Float[np.ndarray, "copies 2"]:
    """By Fisher's z; a bootstrap sample's strata in which a variable is constant do not count."""
    if len(sizes) == 1:
        return coefficients[0]
    z = np.arctanh(np.clip(coefficients, -BOUND, BOUND))
    weight = np.subtract.outer(sizes, (3, 4))[:, None] * np.isfinite(z)
    with np.errstate(invalid="ignore"):
        return np.tanh(np.nansum(weight * z, 0) / weight.sum(0))


@dataclass(frozen=True)
class FoldwiseCorrelation:
    """One region's Spearman ρ over folds, as published: mean and standard deviation (n - 1), NaN below two folds."""

    region: str
    folds: int
    mean: float
    deviation: float


def foldwise(
    scores: Float[np.ndarray, "n r"],
    severity: Float[np.ndarray, "n r"],
    *,
    regions: Sequence[str],
    folds: Shaped[np.ndarray, " n"] | Sequence[str],
) -> list[FoldwiseCorrelation]:
    """The published analysis: ρ over all images of each fold, classes pooled, then mean ± SD over folds.

    For comparison only: folds share most of their training images and so are no independent repetitions, and pooled
    classes can align where no class does. A fold in which a variable is constant, or with fewer than three images
    that have both, does not count.
    """
    table = []
    folds = np.asarray(folds)
    for region, score, grade in zip(regions, scores.T, severity.T, strict=True):
        both = ~(np.isnan(score) | np.isnan(grade))
        found = []
        for fold in np.unique(folds):
            x, y = score[both & (folds == fold)], grade[both & (folds == fold)]
            if len(x) >= 3 and np.ptp(x) and np.ptp(y):
                found.append(float(spearmanr(x, y).statistic))
        mean = float(np.mean(found)) if found else np.nan
        table.append(
            FoldwiseCorrelation(region, len(found), mean, float(np.std(found, ddof=1)) if len(found) > 1 else np.nan)
        )
    return table
