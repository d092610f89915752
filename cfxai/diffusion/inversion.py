"""From image to the noise that DDIM would have made it of."""

from itertools import pairwise
from math import exp, expm1

from cfxai.diffusion.denoiser import Denoiser
from cfxai.diffusion.grid import Grid
from cfxai.protocols import Image


def euler_inversion(denoise: Denoiser, image: Image, grid: Grid) -> Image:
    """x at the grid's first time to x at its last, by the published inversion: DDIM's formula, run backwards.

    Each step uses the noise of the point that it leaves, where DDIM uses that of the point it would return from, so
    that rendering returns the image only as steps become many. One evaluation a step.
    """
    x = image
    for time, later in pairwise(grid):
        clean, eps = denoise(x, time)
        alpha, sigma = denoise.schedule.level(later)
        x = alpha * clean + sigma * eps
    return x


def fixed_point_inversion(denoise: Denoiser, image: Image, grid: Grid, iterations: int = 3) -> Image:
    """The same by solving each DDIM step for the point y that it starts from, so that `ddim` returns the image.

    A DDIM step from y, at level (a', s'), to x, at (a, s), says two things of y, with h the difference of lambda:

        y = (a' / a) x + s' (1 - exp(-h)) eps(y)        y = (s' / s) x - a' (exp(h) - 1) x_0(y)

    Each is a fixed-point iteration. For Gaussian data of any variance, the first shrinks errors by up to 1 - exp(-h),
    where noise dominates, the second flips and scales them by up to exp(h) - 1, where the image does. Their mean with
    weights 1 / (1 + exp(-h)) and 1 / (1 + exp(h)) shrinks them to tanh(h / 2) at most. A step starts from the x_0 and
    eps that the step before it ended with. `iterations` evaluations a step.
    """
    x, schedule = image, denoise.schedule
    found: tuple[Image, Image] | None = None
    for time, later in pairwise(grid):
        (a, s), (alpha, sigma) = schedule.level(time), schedule.level(later)
        h = schedule.half_log_snr(time) - schedule.half_log_snr(later)
        first = 1 / (1 + exp(-h))
        known = (first * alpha / a + (1 - first) * sigma / s) * x
        y = alpha / a * x if found is None else alpha * found[0] + sigma * found[1]
        for _ in range(iterations):
            clean, eps = found = denoise(y, later)
            y = known - first * sigma * expm1(-h) * eps - (1 - first) * alpha * expm1(h) * clean
        x = y
    return x
