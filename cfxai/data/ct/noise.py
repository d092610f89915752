"""The noise of a reconstructed CT image."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from cfxai.data.ct.canvas import Grid
from cfxai.data.ct.shapes import Field


def grain(grid: Grid, rng: np.random.Generator) -> Field:
    """Noise of unit standard deviation: correlated over about 2 mm in the slice, with faint horizontal streaks."""
    white = rng.standard_normal((2, *grid.shape), dtype=np.float32)
    sigma = 2.0 / grid.spacing
    fine = gaussian_filter1d(gaussian_filter1d(white[0], sigma, axis=0), sigma, axis=1)
    streaks = gaussian_filter1d(gaussian_filter1d(white[1], 12 * sigma, axis=0), 0.5 * sigma, axis=1)
    texture = fine / fine.std() + 0.25 * streaks / streaks.std()
    return texture / texture.std()
