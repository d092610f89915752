"""How well heads tell findings and grades, with bootstrap intervals.

Every score is a function of how often each case counts, `times` [draws n]: once each for the value itself, as often as
it was drawn for the bootstrap. So a whole block of samples is scored at once.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

Times = Num[np.ndarray, "draws n"]
Values = Float[np.ndarray, " draws"]
Score = Callable[[Times], Values]
BLOCK = 2**21
"""Numbers in a block of bootstrap samples."""


def finding_scores(
    score: Float[np.ndarray, " n"], called: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> dict[str, Score]:
    """Accuracy and F1 of the call "a finding", and ROC-AUC of the score behind it."""
    return {
        "accuracy": lambda times: _mean(times, called == truth),
        "f1": lambda times: _f1(_confusion(times, truth.astype(int), called.astype(int), 2))[:, 1],
        "auroc": lambda times: _auroc(times, score, truth),
    }


def grade_scores(
    score: Float[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    truth: Int[np.ndarray, " n"],
    grades: Int[np.ndarray, " g"],
) -> dict[str, Score]:
    """Mean absolute error, macro-F1, quadratic weighted kappa of predicted grades; Spearman's rho of the score.

    Args:
        grades: those of training and truth, ascending. Macro-F1 is over all of them; one that is neither true nor
            predicted counts as 0.
    """
    true_level, level = np.searchsorted(grades, truth), np.searchsorted(grades, predicted)

    def confusion(times: Times) -> Float[np.ndarray, "draws g g"]:
        return _confusion(times, true_level, level, len(grades))

    return {
        "mae": lambda times: _mean(times, np.abs(predicted - truth)),
        "macro_f1": lambda times: _f1(confusion(times)).mean(1),
        "qwk": lambda times: _quadratic_kappa(confusion(times), grades),
        "spearman": lambda times: _spearman(times, score, truth),
    }


def mean_absolute_error(estimate: Float[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> Score:
    """Of grades that are not rounded."""
    return lambda times: _mean(times, np.abs(estimate - truth))


def with_intervals(
    scores: Mapping[str, Score], units: Shaped[np.ndarray, " n"], *, draws: int = 2000, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """Each score as `NAME`, and its 95 % percentile interval over bootstrap samples of the units as `NAME_ci`.

    None where nothing defines it, such as ROC-AUC of cases of one class. Samples that leave a score undefined do not
    count; a single unit has no interval.

    Args:
        units: the patient of each case, or the case.
    """
    names, unit = np.unique(units, return_inverse=True)
    once = np.ones((1, len(units)))
    found = {name: float(score(once)[0]) for name, score in scores.items()}
    random, block = np.random.default_rng(seed), max(1, BLOCK // len(units))
    drawn: dict[str, list[Values]] = {name: [] for name in scores}
    for done in range(0, draws if len(names) > 1 else 0, block):
        size = (min(block, draws - done), len(names))
        chosen = random.integers(len(names), size=size) + len(names) * np.arange(size[0])[:, None]
        times = np.bincount(chosen.ravel(), minlength=size[0] * size[1]).reshape(size).astype(float)[:, unit]
        for name, score in scores.items():
            drawn[name].append(score(times))
    result: dict[str, float | list[float] | None] = {}
    for name, value in found.items():
        result[name] = value if np.isfinite(value) else None
        result[f"{name}_ci"] = _interval(drawn[name]) if np.isfinite(value) else None
    return result


def _interval(blocks: list[Values]) -> list[float] | None:
    values = np.concatenate([*blocks, np.zeros(0)])
    values = values[np.isfinite(values)]
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])] if len(values) else None


def _mean(times: Times, values: Num[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> Values:
    return times @ values.astype(float) / times.sum(1)


def _confusion(
    times: Times, truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "draws c c"]:
    """Counts of [true class, predicted class]."""
    cell = np.zeros((len(truth), classes * classes))
    cell[np.arange(len(truth)), truth * classes + predicted] = 1
    return (times @ cell).reshape(-1, classes, classes)


def _f1(confusion: Float[np.ndarray, "draws c c"]) -> Float[np.ndarray, "draws c"]:
    """2 TP / (2 TP + FP + FN) of each class, 0 where there is none."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    either = confusion.sum(1) + confusion.sum(2)
    return 2 * hits / np.where(either > 0, either, 1)


def _quadratic_kappa(confusion: Float[np.ndarray, "draws c c"], grades: Int[np.ndarray, " c"]) -> Values:
    """1 - observed / expected squared difference of grades (Cohen 1968, Psychological Bulletin 70)."""
    square = (grades[:, None] - grades).astype(float) ** 2
    by_chance = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None] / confusion.sum((1, 2))[:, None, None]
    return 1 - _quotient((confusion * square).sum((1, 2)), (by_chance * square).sum((1, 2)))


def _auroc(times: Times, score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Values:
    """P(a positive scores above a negative) + P(they are equal) / 2."""
    above, _ = _levels(times * positive, score)
    beside, _ = _levels(times * ~positive, score)
    pairs = (above * (beside.cumsum(1) - beside / 2)).sum(1)
    return _quotient(pairs, above.sum(1) * beside.sum(1))


def _spearman(times: Times, a: Num[np.ndarray, " n"], b: Num[np.ndarray, " n"]) -> Values:
    """Correlation of mid-ranks."""
    x, y = _ranks(times, a), _ranks(times, b)
    x, y = (rank - ((times * rank).sum(1) / times.sum(1))[:, None] for rank in (x, y))
    squares = (times * x**2).sum(1) * (times * y**2).sum(1)
    squares[squares < 0.1] = 0  # of two ranks that differ it is 1/4 or more, of equal ones it is rounding
    return _quotient((times * x * y).sum(1), np.sqrt(squares))


def _ranks(times: Times, values: Num[np.ndarray, " n"]) -> Float[np.ndarray, "draws n"]:
    count, level = _levels(times, values)
    return (count.cumsum(1) - (count - 1) / 2)[:, level]


def _levels(
    times: Times, values: Num[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "draws levels"], Int[np.ndarray, " n"]]:
    """How often each distinct value counts, in ascending order, and which of them each case has."""
    order = np.argsort(values, kind="stable")
    _, first, level = np.unique(values[order], return_index=True, return_inverse=True)
    of_case = np.empty_like(level)
    of_case[order] = level
    return np.add.reduceat(times[:, order], first, axis=1), of_case


def _quotient(part: Values, whole: Values) -> Values:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
