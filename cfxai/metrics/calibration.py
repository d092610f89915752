"""Whether probabilities mean what they say, and the temperature that makes them (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BOUNDS = (0.25, 16.0)
"""Of the temperature. Images that are separated perfectly would have it fall, or rise if all are wrong, without end."""


def reliability(
    probability: Float[ndarray, "n k"], label: Int[ndarray, " n"], bins: int = 15
) -> tuple[Int[ndarray, " bins"], Float[ndarray, " bins"], Float[ndarray, " bins"]]:
    """Of equally wide bins of the predicted class's probability, (0, 1/bins] first: images, and sums over them of that
    probability and of hits."""
    confidence, hit = probability.max(1), probability.argmax(1) == label
    bin_of = np.ceil(confidence * bins).astype(int).clip(1, bins) - 1
    images = np.bincount(bin_of, minlength=bins)
    return images, np.bincount(bin_of, confidence, bins), np.bincount(bin_of, hit, bins)


def calibration_error(probability: Float[ndarray, "n k"], label: Int[ndarray, " n"], bins: int = 15) -> float:
    """The expected calibration error: |accuracy - confidence| of each bin, averaged over images."""
    _, confidence, hits = reliability(probability, label, bins)
    return float(np.abs(hits - confidence).sum() / len(label))


def fit_temperature(logits: Float[ndarray, "n k"], label: Int[ndarray, " n"]) -> float:
    """The T in `BOUNDS` for which softmax(logits / T) has the lowest cross-entropy, which is convex in 1 / T."""

    def cross_entropy(inverse: float) -> float:
        return -float(log_softmax(logits * inverse, axis=1)[np.arange(len(label)), label].mean())

    lowest, highest = 1 / BOUNDS[1], 1 / BOUNDS[0]
    inside = minimize_scalar(cross_entropy, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-6}).x
    return 1 / min((highest, float(inside), lowest), key=cross_entropy)


def without_temperature(probability: Float[ndarray, "n k"], temperature: float) -> Float[ndarray, "n k"]:
    """softmax(z) from softmax(z / T)."""
    tiny = np.finfo(float).tiny
    return np.exp(log_softmax(temperature * np.log(probability.clip(tiny)), axis=1))
