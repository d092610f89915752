"""A picture of a spine phantom: mid-sagittal slices in a bone window, what was lost outlined."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8
from nibabel import Nifti1Image
from PIL import Image
from skimage.segmentation import mark_boundaries

WINDOW = (-200, 700)  # HU
COLUMNS, SIDE = 8, 192
OUTLINE = (1.0, 0.3, 0.25)


def write_preview(manifest: Path, path: Path) -> None:
    """Write a montage: the first vertebrae, below them what their fractures took, and below the healthy ones."""
    with manifest.open() as file:
        rows = list(csv.DictReader(file))[:COLUMNS]
    Image.fromarray(np.concatenate([_column(manifest.parent, row) for row in rows], 1)).save(path)


def _column(folder: Path, row: dict[str, str]) -> UInt8[np.ndarray, "h w 3"]:
    image, healthy = (_grey(_slice(folder / row[name])) for name in ("image", "healthy"))
    mask = Image.fromarray(_slice(folder / row["mask"]).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    outlined = (255 * mark_boundaries(image, np.asarray(mask), color=OUTLINE, mode="inner")).astype(np.uint8)
    return np.concatenate([image, outlined, healthy])


def _slice(path: Path) -> Int16[np.ndarray, "h w"]:
    """The middle slice from the side, the front on the viewer's left."""
    volume = np.asarray(Nifti1Image.from_filename(path).dataobj, np.int16)
    return volume[volume.shape[0] // 2, ::-1, ::-1].T


def _grey(hu: Int16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "side side 3"]:
    grey = (np.clip((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1) * 255).astype(np.uint8)
    return np.repeat(np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC))[..., None], 3, 2)
