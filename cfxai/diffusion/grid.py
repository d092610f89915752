"""The times that an inversion and a rendering step through. They share one grid, or they do not undo each other."""

from typing import Literal

import numpy as np

from cfxai.diffusion.schedule import Schedule

Spacing = Literal["log_snr", "time"]
Grid = tuple[float, ...]
"""Rising times, from the image to the noise."""


def time_grid(schedule: Schedule, steps: int, spacing: Spacing = "log_snr", until: float = 1.0) -> Grid:
    """steps + 1 rising times from 0 to until * (T - 1).

    They are equally far apart in `time`, or in the log of the signal-to-noise ratio: such steps are equally hard to
    invert, see `cfxai.diffusion.inversion`.
    """
    end = until * (schedule.length - 1)
    if spacing == "time":
        return tuple(np.linspace(0, end, steps + 1).tolist())
    levels = np.linspace(schedule.half_log_snr(0), schedule.half_log_snr(end), steps + 1)
    return (0.0, *(schedule.time(level) for level in levels[1:-1]), end)
