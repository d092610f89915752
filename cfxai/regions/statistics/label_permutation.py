"""Two groups of patients: Welch's t under permutation of their labels."""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float

from cfxai.regions.statistics.permutation import CHUNK, Permuted, against_permutations, quotient


def permute_labels(
    scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"], *, draws: int = 5000, seed: int = 0
) -> Permuted:
    """Tests every column, members minus the others; exact when there are at most `draws` ways to choose the members.

    Welch's t is studentised, which keeps the test right for means where the groups' variances differ (Janssen 1997).
    """
    centred = scores - scores.mean(0)
    standard = quotient(centred, np.broadcast_to(scores.std(0), scores.shape))
    moments = np.concatenate([standard, standard**2], axis=1)
    exact = comb(len(scores), int(member.sum())) <= draws
    chosen = _all_choices(member) if exact else _random_choices(member, draws, seed)
    observed = _welch(member[None].astype(float), moments)[0]
    return against_permutations(observed, (_welch(members, moments) for members in chosen), exact)


def _welch(members: Float[np.ndarray, "b n"], moments: Float[np.ndarray, "n _"]) -> Float[np.ndarray, "b k"]:
    """All columns under all choices of members by one matrix product of memberships with scores and their squares."""
    size = members[0].sum()
    other = len(moments) - size
    inside = members @ moments
    outside = moments.sum(0) - inside
    (mean, square), (other_mean, other_square) = np.split(inside / size, 2, 1), np.split(outside / other, 2, 1)
    # Standardised scores: a variance this small is rounding.
    spread, other_spread = ((s - m**2).clip(0) for s, m in ((square, mean), (other_square, other_mean)))
    error = spread / (size - 1) + other_spread / (other - 1)
    return quotient(mean - other_mean, np.sqrt(np.where(error < 1e-13, 0, error)))


def _all_choices(member: Bool[np.ndarray, " n"]) -> Iterator[Float[np.ndarray, "b n"]]:
    chosen = np.array(list(combinations(range(len(member)), int(member.sum()))))
    members = np.zeros((len(chosen), len(member)))
    np.put_along_axis(members, chosen, 1, axis=1)
    yield members


def _random_choices(member: Bool[np.ndarray, " n"], draws: int, seed: int) -> Iterator[Float[np.ndarray, "b n"]]:
    random, block = np.random.default_rng(seed), max(1, CHUNK // len(member))
    for done in range(0, draws, block):
        rows = min(block, draws - done)
        yield random.permuted(np.tile(member.astype(float), (rows, 1)), axis=1)
