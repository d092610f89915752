"""Phantom volumes as NIfTI files."""

from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Shaped

from cfxai.data.ct.canvas import Grid


def save_volume(volume: Shaped[np.ndarray, "x y z"], grid: Grid, path: Path) -> None:
    """Write a volume of `grid` with its geometry."""
    image = nibabel.Nifti1Image(volume, grid.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
