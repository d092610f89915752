"""Paired differences: their t under random signs, right when a difference is as likely as its opposite."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from cfxai.regions.statistics.permutation import CHUNK, Permuted, against_permutations, quotient


def flip_signs(differences: Float[np.ndarray, "n k"], *, draws: int = 10_000, seed: int = 0) -> Permuted:
    """Tests every column; a patient's differences flip together; exact when there are at most `draws` sets of signs."""
    n = len(differences)
    scale = np.sqrt((differences**2).mean(0))
    standard = quotient(differences, np.broadcast_to(scale, differences.shape))
    square = (standard**2).mean(0)  # no sign changes it

    def statistic(signs: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b k"]:
        mean = signs @ standard / n
        error = (square - mean**2).clip(0) / (n - 1)
        return quotient(mean, np.sqrt(np.where(error < 1e-13, 0, error)))

    exact = 2**n <= draws
    signs = _all_signs(n) if exact else _random_signs(n, draws, seed)
    return against_permutations(statistic(np.ones((1, n)))[0], map(statistic, signs), exact)


def _all_signs(n: int) -> Iterator[Float[np.ndarray, "b n"]]:
    yield 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _random_signs(n: int, draws: int, seed: int) -> Iterator[Float[np.ndarray, "b n"]]:
    random, block = np.random.default_rng(seed), max(1, CHUNK // n)
    for done in range(0, draws, block):
        yield random.choice([-1.0, 1.0], (min(block, draws - done), n))
