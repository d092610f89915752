"""From what the rays met to the grey levels of a radiograph."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cfxai.data.chest.film import Film, Map

TISSUE, BONE = 0.0185, 0.048  # 1/mm: linear attenuation at about 70 keV


@dataclass(frozen=True)
class Exposure:
    """How one radiograph was taken and processed.

    Attributes:
        dose: photons on a bare pixel.
        scatter: scattered radiation as a part of the primary.
        margin: how far black lies below the thinnest part of the body, and white above the densest, as a part of the
            span between the two.
        gamma: of the grey levels between them.
    flatten: the part of what is coarser than 40 mm that processing takes away, so that detail shows everywhere.
    """

    dose: float
    scatter: float
    margin: tuple[float, float]
    gamma: float
    flatten: float


def draw_exposure(noise: float, rng: np.random.Generator) -> Exposure:
    """An automatic exposure and its processing, give or take; `noise` is the relative deviation of `dose`."""
    return Exposure(
        dose=(rng.uniform(0.7, 1.4) / max(noise, 1e-6)) ** 2,
        scatter=rng.uniform(0.05, 0.2),
        flatten=rng.uniform(0.3, 0.55),
        margin=(rng.uniform(0.05, 0.35), rng.uniform(-0.08, 0.12)),
        gamma=rng.uniform(0.75, 1.15),
    )


def expose(film: Film, attenuations: list[Map], exposure: Exposure, rng: np.random.Generator) -> list[Map]:
    """Radiographs in [0, 1] (bright = dense) of the first attenuation and of variants of it, equal where these are.

    Beer-Lambert: exp(-a) of the photons arrive, with scatter as a blurred share of the first; photon noise; the film
    shows the logarithm.
    """
    white = rng.standard_normal((film.size, film.size), dtype=np.float32)
    scattered = exposure.scatter * gaussian_filter(np.exp(-attenuations[0]), 45 / film.step)
    coarse = exposure.flatten * gaussian_filter(attenuations[0], 40 / film.step)
    body = attenuations[0] > 0.4
    thin, thick = np.percentile((attenuations[0] - coarse)[body], [3, 98])
    black, bright = thin - exposure.margin[0] * (thick - thin), thick + exposure.margin[1] * (thick - thin)
    radiographs = []
    for attenuation in attenuations:
        arrived = np.exp(-attenuation) + scattered
        noisy = -np.log(arrived) + white / np.sqrt(exposure.dose * arrived)
        grey = (noisy - coarse - black) / (bright - black)
        radiographs.append(np.clip(grey, 0, 1) ** exposure.gamma)
    return radiographs
