"""From noise to image along the probability-flow ODE, one network evaluation a step."""

from itertools import pairwise
from math import expm1

from cfxai.diffusion.denoiser import Denoiser
from cfxai.diffusion.grid import Grid
from cfxai.protocols import Image


def ddim(denoise: Denoiser, noise: Image, grid: Grid) -> Image:
    """x at the grid's last time to x at its first, by deterministic DDIM steps (Song et al. 2021, arXiv:2010.02502)."""
    x = noise
    for time, earlier in pairwise(reversed(grid)):
        image, eps = denoise(x, time)
        alpha, sigma = denoise.schedule.level(earlier)
        x = alpha * image + sigma * eps
    return x


def dpm_solver(denoise: Denoiser, noise: Image, grid: Grid) -> Image:
    """The same by DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): of second order.

    A step extrapolates x_0 from the last two evaluations; the first step is DDIM's.
    """
    x, schedule = noise, denoise.schedule
    previous: tuple[Image, float] | None = None
    for time, earlier in pairwise(reversed(grid)):
        image, _ = denoise(x, time)
        h = schedule.half_log_snr(earlier) - schedule.half_log_snr(time)
        ahead = image
        if previous is not None:
            ahead = image + (image - previous[0]) * (h / (2 * previous[1]))
        alpha, sigma = schedule.level(earlier)
        x = sigma / schedule.level(time)[1] * x - alpha * expm1(-h) * ahead
        previous = image, h
    return x
