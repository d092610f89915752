"""How large a difference is: standardised and rank effects, columns at once, and bootstrap intervals."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import gammaln
from scipy.stats import DegenerateDataWarning, bootstrap, rankdata

from cfxai.regions.statistics.permutation import CHUNK, quotient

Values = Float[np.ndarray, "_ k"]
Effects = Float[np.ndarray, " k"]


def pooled_sd(a: Values, b: Values) -> Effects:
    """Standard deviation within the groups."""
    squares = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    return np.sqrt(squares / (len(a) + len(b) - 2))


def cohen_d(a: Values, b: Values) -> Effects:
    """(mean of a - mean of b) / pooled standard deviation."""
    return quotient(a.mean(0) - b.mean(0), pooled_sd(a, b))


def hedges_g(a: Values, b: Values) -> Effects:
    """Cohen's d without its bias in small groups; the exact factor of Hedges 1981, J. Educational Statistics 6(2)."""
    freedom = len(a) + len(b) - 2
    unbiased = np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2)
    return unbiased * cohen_d(a, b)


def cliff_delta(a: Values, b: Values) -> Effects:
    """P(a > b) - P(a < b) of a random pair (Cliff 1993), in [-1, 1]; by ranks, so that no pair is formed."""
    ranks = rankdata(np.concatenate([a, b]), axis=0)[: len(a)].sum(0)
    above = ranks - len(a) * (len(a) + 1) / 2  # Mann-Whitney's U, ties counted half
    return 2 * above / (len(a) * len(b)) - 1


def rank_biserial(differences: Values) -> Effects:
    """Of paired differences, zeros left out: (rank sum of the positive - of the negative) / of both (Kerby 2014)."""
    some = differences != 0
    size = np.where(some, np.abs(differences), np.nan)
    ranks = np.nan_to_num(rankdata(size, axis=0, nan_policy="omit"))
    return quotient((np.sign(differences) * ranks).sum(0), ranks.sum(0))


def interval(
    samples: Sequence[Shaped[np.ndarray, "..."]],
    statistic: Callable[..., Float[np.ndarray, "..."]],
    *,
    seed: int = 0,
    resamples: int = 5000,
    paired: bool = False,
) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:
    """95 % bootstrap interval, bias-corrected and accelerated (BCa; Efron 1987); the patients are resampled.

    Args:
        samples: patients along the last axis. statistic: of them, vectorised (`axis=`).
        paired: the samples are of the same patients.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            batch=max(1, CHUNK // sum(sample.size for sample in samples)),
            vectorized=True,
            axis=-1,
            paired=paired,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    # BCa has no interval only where the patients do not differ at all.
    value = statistic(*samples, axis=-1)
    return np.where(np.isnan(found.low), value, found.low), np.where(np.isnan(found.high), value, found.high)
