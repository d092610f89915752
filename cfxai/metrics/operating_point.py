"""From which probability on an image is called abnormal: chosen on one split, judged on another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from sklearn.metrics import roc_curve

from cfxai.errors import ConfigError
from cfxai.metrics.per_image import PerImage

ROUNDING = 1e-9


def choose_operating_point(probability: Float[ndarray, " n"], abnormal: Bool[ndarray, " n"], rule: str) -> float | None:
    """A threshold in (0, 1) of the probability of being abnormal, halfway between two images that it parts.

    Args:
        rule: `youden`, the highest sensitivity + specificity (Youden 1950; of equals, the threshold nearest 0.5);
            `sensitivity>=S`, the highest specificity with at least that sensitivity; `specificity>=S`, the reverse.

    Returns:
        None if only normal, or only abnormal images are there to choose on.

    Raises:
        ConfigError: another rule.
    """
    if abnormal.all() or not abnormal.any():
        return None
    false, hit, at = roc_curve(abnormal, probability, drop_intermediate=False)
    # Thresholds fall from infinity; images from each one up are called abnormal. The halves lie below it.
    below = np.append(at[1:], 0.0)
    between = (np.minimum(at, 1.0) + below) / 2
    sensitivity, specificity = hit, 1 - false
    name, _, least = rule.partition(">=")
    if name == "youden":
        sums = sensitivity + specificity
        best = np.isclose(sums, sums.max())
        return float(min(between[best], key=lambda threshold: abs(threshold - 0.5)))
    if name == "sensitivity" and least:
        return float(between[np.flatnonzero(sensitivity >= float(least) - ROUNDING)[0]])
    if name == "specificity" and least:
        return float(between[np.flatnonzero(specificity >= float(least) - ROUNDING)[-1]])
    raise ConfigError(
        f"evaluation.operating_point: '{rule}' is none of youden, sensitivity>=0.95, specificity>=0.95 and 0.5."
    )


def at_threshold(
    probability: Float[ndarray, " n"],
    abnormal: Bool[ndarray, " n"],
    group: Sequence[str],
    threshold: float,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`sensitivity`, `specificity`, their 95 % intervals over patients, and `confusion[abnormal][called abnormal]`."""
    called = probability >= threshold
    found = PerImage(("sensitivity", "specificity"), resamples=resamples, seed=seed)
    for patient, is_abnormal, is_called in zip(group, abnormal, called, strict=True):
        found.add(patient, {"sensitivity": float(is_called)} if is_abnormal else {"specificity": float(not is_called)})
    confusion = np.zeros((2, 2), dtype=int)
    np.add.at(confusion, (abnormal.astype(int), called.astype(int)), 1)
    return {**found.summary(), "confusion": confusion.tolist()}
