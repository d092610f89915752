"""A picture of a phantom: slices in the abdominal window, tumours outlined."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8
from nibabel import Nifti1Image
from PIL import Image
from scipy.ndimage import binary_erosion

from cfxai.data.abdomen.scan import TUMOUR

WINDOW = (-160, 240)  # HU
PATIENTS, SLICES, ZOOM = 5, 6, 2


def write_preview(manifest: Path, path: Path) -> None:
    """Write a montage, a row for each of the first patients, from the feet (left) to the head (right)."""
    with manifest.open() as file:
        rows = list(csv.DictReader(file))[:PATIENTS]
    strips = [_strip(*(_read(manifest.parent / row[name]) for name in ("image", "mask"))) for row in rows]
    Image.fromarray(np.vstack(strips)).save(path)


def _read(path: Path) -> Int16[np.ndarray, "x y z"]:
    return np.asarray(Nifti1Image.from_filename(path).dataobj, np.int16)


def _strip(image: Int16[np.ndarray, "x y z"], mask: Int16[np.ndarray, "x y z"]) -> UInt8[np.ndarray, "h w 3"]:
    """Slices side by side the radiological way up: front at the top, the patient's right on the viewer's left."""
    depth = image.shape[2]
    chosen = np.linspace(0.1 * depth, 0.9 * depth, SLICES).astype(int).clip(max=depth - 1)
    image, mask = (np.hstack([volume[::-1, ::-1, k].T for k in chosen]) for volume in (image, mask))
    grey = (np.clip((image - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(grey).resize((grey.shape[1] * ZOOM, grey.shape[0] * ZOOM), Image.Resampling.BICUBIC)
    colour = np.array(picture.convert("RGB"))
    tumour = np.kron(mask == TUMOUR, np.ones((ZOOM, ZOOM), bool))
    colour[tumour & ~binary_erosion(tumour)] = (255, 80, 60)
    return colour
