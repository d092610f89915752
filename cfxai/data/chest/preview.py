"""A picture of a chest phantom: the first radiographs, opacities outlined."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from skimage.segmentation import mark_boundaries

ROWS, COLUMNS, SIDE = 4, 6, 256
OUTLINE = (1.0, 0.3, 0.25)


def write_preview(manifest: Path, path: Path) -> None:
    """Write a montage: a row of radiographs, below it the same ones with their opacities outlined, and so on."""
    with manifest.open() as file:
        rows = list(csv.DictReader(file))[: ROWS // 2 * COLUMNS]
    strips = []
    for start in range(0, len(rows), COLUMNS):
        pairs = [_pair(manifest.parent, row) for row in rows[start : start + COLUMNS]]
        blank = [np.zeros_like(pairs[0])] * (COLUMNS - len(pairs))
        strips.append(np.concatenate([*pairs, *blank], 1))
    Image.fromarray(np.concatenate(strips)).save(path)


def _pair(folder: Path, row: dict[str, str]) -> UInt8[np.ndarray, "h w 3"]:
    """A radiograph above itself with the outline."""
    grey = (np.asarray(Image.open(folder / row["image"])) / 257).astype(np.uint8)
    image = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    mask = np.asarray(Image.open(folder / row["mask"]).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    outlined = mark_boundaries(image, mask, color=OUTLINE, mode="inner")
    return np.concatenate([np.repeat(image[..., None], 3, 2), (255 * outlined).astype(np.uint8)])
