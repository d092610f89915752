"""Mean, spread and covariance of a set of latents."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num
from sklearn.covariance import ledoit_wolf


@dataclass(frozen=True)
class LatentStatistics:
    """Of latents [n d].

    Attributes:
        mean, sd: [d], per dimension; sd with n in the denominator.
        covariance: [d d], shrunk, so that it can be inverted however few the latents are.
    """

    mean: Float[np.ndarray, " d"]
    sd: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def statistics(z: Num[np.ndarray, "n d"]) -> LatentStatistics:
    """The correlation is shrunk to the identity (Ledoit and Wolf 2004, J. Multivariate Analysis 88), not the covariance
    to a sphere: latent dimensions differ fifty-fold in spread, and the narrow ones would drown."""
    z = np.asarray(z, float)
    mean, sd = z.mean(0), z.std(0)
    scale = np.where(sd > 0, sd, 1.0)
    correlation, _ = ledoit_wolf((z - mean) / scale)
    return LatentStatistics(mean, sd, correlation * np.outer(scale, scale))
