"""Which regions of an image score higher than which?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Num

from cfxai.errors import DataError
from cfxai.regions.statistics.difference import PairedDifference
from cfxai.regions.statistics.friedman import Friedman, friedman
from cfxai.regions.statistics.paired import paired_tests
from cfxai.regions.statistics.patients import Ids, columns, per_patient


@dataclass(frozen=True)
class WithinImage:
    """`overall` over all regions, None for two; `pairs` of regions, the first minus the second, adjusted by Holm."""

    overall: Friedman | None
    pairs: tuple[PairedDifference, ...]


def compare_regions(
    scores: Num[np.ndarray, "n r"],
    patients: Ids,
    regions: Sequence[str],
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> WithinImage:
    """Friedman's test over the regions, and a sign-flip test of each pair.

    Compare mean densities or enrichments: shares and sums of larger regions are larger by area alone.

    Raises:
        DataError: fewer than 6 patients, or a single region.
    """
    if len(regions) < 2:
        raise DataError("Regions can be compared with each other only where there are two or more.")
    flat, names = columns(scores, regions)
    sample = per_patient(flat, patients)
    first, second = np.array(list(combinations(range(len(names)), 2))).T
    pairs = paired_tests(
        sample.scores[:, first] - sample.scores[:, second],
        [f"{names[i]} minus {names[j]}" for i, j in zip(first, second, strict=True)],
        "Holm",
        left_out=sample.left_out,
        margin=margin,
        alpha=alpha,
        draws=draws,
        seed=seed,
    )
    return WithinImage(friedman(sample.scores, names), tuple(pairs))
