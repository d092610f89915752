"""How strongly a head is penalised: cross-validation within the training latents."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Num, Shaped
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold

from cfxai.errors import DataError

FOLDS = 5
Grid = Mapping[str, Sequence[Any]]
Folds = list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]


def folds(
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None,
    *,
    apart: Shaped[np.ndarray, " n"],
    seed: int = 0,
) -> Folds:
    """Five divisions into fitted and held-out rows, by label; a group (patient) is on one side only.

    Args:
        apart: classes that must be on both sides, or nothing could be fitted or judged there; divisions that lack one
            are left out.

    Raises:
        DataError: a class with fewer than two groups.
    """
    units = np.arange(len(labels)) if groups is None else groups
    fewest = min(len(np.unique(units[apart == value])) for value in np.unique(apart))
    if fewest >= 2:
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a grade too rare for every fold is no harm
            found = list(splitter(min(FOLDS, fewest), shuffle=True, random_state=seed).split(labels, labels, groups))
        classes = len(np.unique(apart))
        if usable := [fold for fold in found if all(len(np.unique(apart[side])) == classes for side in fold)]:
            return usable
    what = "patients" if groups is not None else "cases"
    raise DataError(f"Training has too few {what} of a class for cross-validation; it needs two or more of each.")


def fit_best(
    estimator: BaseEstimator,
    grid: Grid | Sequence[Grid],
    z: Num[np.ndarray, "n d"],
    target: Num[np.ndarray, " n"],
    folds: Folds,
    scoring: str,
    *,
    prefer_first: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """The estimator with the best mean score over the folds, fitted to all rows, and the values chosen.

    Of equals the first is taken: grids begin with the strongest penalty.

    Args:
        prefer_first: keep the grid's first candidate unless the best beats it by more than its own standard error.
    """
    refit = _first_unless_clearly_worse if prefer_first else True
    search = GridSearchCV(estimator, grid, scoring=scoring, cv=folds, refit=refit).fit(z, target)
    return search.best_estimator_, search.best_params_


def _first_unless_clearly_worse(results: Mapping[str, np.ndarray]) -> int:
    mean, best = results["mean_test_score"], int(results["mean_test_score"].argmax())
    splits = sum(name.startswith("split") for name in results)
    return best if mean[best] - mean[0] > results["std_test_score"][best] / np.sqrt(splits) else 0
