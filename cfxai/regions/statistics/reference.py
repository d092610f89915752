"""Do region scores exceed those of a map that knows less: random weights, or the intensities alone?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from cfxai.regions.statistics.difference import PairedDifference
from cfxai.regions.statistics.paired import paired_tests
from cfxai.regions.statistics.patients import Ids, columns, per_patient


def compare_with_reference(
    scores: Num[np.ndarray, "n *m r"],
    reference: Num[np.ndarray, "n *m r"],
    patients: Ids,
    regions: Sequence[str],
    *,
    methods: Sequence[str] = (),
    against: str = "reference",
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> list[PairedDifference]:
    """Scores minus reference scores of the same images, by sign flips; one max-T family over regions (and methods).

    Against a network of random weights it tells what was learned from what edges alone give (Adebayo et al. 2018,
    arXiv:1810.03292); against a map of the intensities, what the network adds to the picture.

    Args:
        against: what the reference is, for the sentence.

    Raises:
        DataError: fewer than 6 patients.
    """
    flat, names = columns(scores, regions, methods)
    sample = per_patient(flat - columns(reference, regions, methods)[0], patients)
    return paired_tests(
        sample.scores,
        [f"{name}, minus {against}" for name in names],
        "max-T",
        left_out=sample.left_out,
        margin=margin,
        alpha=alpha,
        draws=draws,
        seed=seed,
    )
