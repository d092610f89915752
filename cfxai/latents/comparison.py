"""Every head fitted on the training latents and scored on the others."""

from typing import Any

import numpy as np
import torch

from cfxai.latents.heads import GRADED, KINDS, Kind, fit_head
from cfxai.latents.linear_head import LinearHead
from cfxai.latents.scores import Score, finding_scores, grade_scores, mean_absolute_error, with_intervals
from cfxai.latents.table import LatentTable

COMPARED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "multinomial")
NAMES = ("accuracy", "f1", "auroc", "mae", "mae_unrounded", "macro_f1", "qwk", "spearman")


def compare_heads(table: LatentTable, *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Fits the heads of `COMPARED` on the rows of split train alone, and scores them.

    Returns:
        `split`, the one that judges: test, or val where there is no test; `n`, rows of each split; `features`, d;
        `grades`, labels of the training rows; and for each head its `penalty` and the scores on `split`. `accuracy`,
        `f1` and `auroc` are about any finding, grade > 0; `mae`, `macro_f1`, `qwk` and `spearman` about the grade, None
        of heads that do not grade; `mae_unrounded` is that of `ols_distance` before its grades are clipped and
        rounded. `NAME_ci` is the 95 % interval over groups. With both val and test, `val` has each head's scores on
        val.

    Raises:
        DataError: too few training rows of a class for cross-validation.
    """
    training, judge, *others = table.part("train"), *table.scored
    result: dict[str, Any] = {
        "split": judge,
        "n": {name: int(table.part(name).sum()) for name in ("train", *table.scored)},
        "features": table.features.shape[1],
        "grades": np.unique(table.labels[training]).tolist(),
    }
    result |= {name: {} for name in others}
    groups = None if table.groups is None else table.groups[training]
    for kind in COMPARED:
        fitted = fit_head(kind, table.features[training], table.labels[training], groups, seed=seed)
        scores = {name: _judged(kind, fitted.head, table, name, draws, seed) for name in table.scored}
        result[kind] = {"penalty": fitted.penalty, **({"note": fitted.note} if fitted.note else {}), **scores[judge]}
        for name in others:
            result[name][kind] = scores[name]
    return result


def _judged(
    kind: Kind, head: LinearHead, table: LatentTable, split: str, draws: int, seed: int
) -> dict[str, float | list[float] | None]:
    rows = table.part(split)
    truth, grades = table.labels[rows], np.unique(table.labels[table.part("train")])
    units = np.arange(rows.sum()) if table.groups is None else table.groups[rows]
    z = torch.from_numpy(table.features[rows])
    score, predicted = head.score(z)[:, 0].numpy(), head.predicted(z).numpy()
    scores: dict[str, Score] = finding_scores(score, predicted > 0, truth > 0)
    if kind in GRADED:
        scores |= grade_scores(score, predicted, truth, grades)
    if kind == "ols_distance":
        scores["mae_unrounded"] = mean_absolute_error(head.grade(z, clipped=False).numpy(), truth)
    found = with_intervals(scores, units, draws=draws, seed=seed)
    return {key: found.get(key) for name in NAMES for key in (name, f"{name}_ci")}
