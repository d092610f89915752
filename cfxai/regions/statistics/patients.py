"""The unit of every test: the patient, whose images are averaged first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num, Shaped

from cfxai.errors import DataError

Ids = Shaped[np.ndarray, " n"] | Sequence[str]
"""The patient of each image."""


@dataclass(frozen=True)
class PatientScores:
    """One row per patient.

    Attributes:
        scores: [patients k], means over each patient's images.
        labels: the group of each patient; 0 when not asked for.
        covariates: [patients c], means over each patient's images; c = 0 without.
        left_out: images without a number in some column of scores or covariates; they count nowhere.
    """

    scores: Float[np.ndarray, "p k"]
    labels: Int[np.ndarray, " p"]
    covariates: Float[np.ndarray, "p c"]
    left_out: int


def per_patient(
    scores: Num[np.ndarray, "n k"],
    patients: Ids,
    labels: Int[np.ndarray, " n"] | None = None,
    covariates: Num[np.ndarray, "n c"] | None = None,
) -> PatientScores:
    """Averages the images of each patient.

    Raises:
        DataError: no image has all of its numbers, or a patient has images of several groups.
    """
    beside = np.zeros((len(scores), 0)) if covariates is None else np.asarray(covariates, float)
    values = np.concatenate([np.asarray(scores, float), beside], axis=1)
    complete = np.isfinite(values).all(1)
    if not complete.any():
        raise DataError("No image has a score in every region: leave out regions that images lack.")
    patient, names = pd.factorize(np.asarray(patients)[complete], sort=True)
    means = pd.DataFrame(values[complete]).groupby(patient).mean().to_numpy()
    group = np.zeros(len(names), int)
    if labels is not None:
        lowest, group = (pd.Series(labels[complete]).groupby(patient).agg(f).to_numpy() for f in ("min", "max"))
        if (mixed := lowest != group).any():
            raise DataError(
                f"Patient {names[mixed.argmax()]} has images of several groups: compare those within patients with "
                "compare_own_controls, or give each patient one label."
            )
    k = scores.shape[1]
    return PatientScores(means[:, :k], group, means[:, k:], int((~complete).sum()))


def columns(
    scores: Num[np.ndarray, "n *m r"], regions: Sequence[str], methods: Sequence[str] = ()
) -> tuple[Float[np.ndarray, "n k"], tuple[str, ...]]:
    """Scores [n r] as they are, [n m r] with a column per method and region; and the names of the columns."""
    names = tuple(f"{method}, {region}" for method in methods for region in regions) if methods else tuple(regions)
    flat = np.asarray(scores, float).reshape(len(scores), -1)
    if flat.shape[1] != len(names):
        raise DataError(f"Scores of shape {scores.shape} do not fit {len(methods)} methods and {len(regions)} regions.")
    return flat, names


def require_patients(count: int, least: int, test: str) -> None:
    """A DataError where a test can find nothing, whatever the scores."""
    if count < least:
        raise DataError(f"{test} needs at least {least} patients with all scores, got {count}.")


def require_variation(scores: Float[np.ndarray, "p k"], names: Sequence[str]) -> None:
    """A DataError for a column that is the same in all patients."""
    flat = np.ptp(scores, axis=0) <= 1e-12 * np.abs(scores).max(0)
    if flat.any():
        raise DataError(f"The score of {names[flat.argmax()]} is the same in every patient: leave it out.")
