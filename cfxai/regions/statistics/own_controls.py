"""Do region scores differ between abnormal and normal images of the same patients?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num

from cfxai.regions.statistics.difference import PairedDifference
from cfxai.regions.statistics.paired import LEAST, paired_tests
from cfxai.regions.statistics.patients import Ids, columns, per_patient, require_patients


def compare_own_controls(
    scores: Num[np.ndarray, "n *m r"],
    labels: Int[np.ndarray, " n"],
    patients: Ids,
    regions: Sequence[str],
    *,
    methods: Sequence[str] = (),
    groups: tuple[str, str] = ("abnormal", "normal"),
    margin: float | None = None,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> list[PairedDifference]:
    """Abnormal minus normal images of each patient who has both, such as slices with and without a lesion.

    By sign flips; one max-T family over regions (and methods). Images of patients who have one kind only are left out.

    Args:
        labels: 0 = normal, the second of `groups`; all others are the first.

    Raises:
        DataError: fewer than 6 patients have both.
    """
    flat, names = columns(scores, regions, methods)
    complete, abnormal, ids = np.isfinite(flat).all(1), labels != 0, np.asarray(patients)
    both = np.intersect1d(ids[complete & abnormal], ids[complete & ~abnormal])
    require_patients(len(both), LEAST, f"A comparison of {groups[0]} with {groups[1]} images of the same patients")
    kept = complete & np.isin(ids, both)
    high, low = (per_patient(flat[kept & kind], ids[kept & kind]).scores for kind in (abnormal, ~abnormal))
    return paired_tests(
        high - low,
        [f"{name}, {groups[0]} minus {groups[1]} images of a patient" for name in names],
        "max-T",
        left_out=int((~kept).sum()),
        margin=margin,
        alpha=alpha,
        draws=draws,
        seed=seed,
    )
