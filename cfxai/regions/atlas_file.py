"""Reading a label map that is not part of a data set."""

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int
from PIL import Image

from cfxai.errors import DataError

VOLUME = "SPL"
"""Where the axes of volumes and axial slices point in this framework: head, back, the patient's left."""


def read_label_map(path: Path) -> Int[np.ndarray, "*spatial"]:
    """Labels of a picture or volume, as images of this framework lie.

    NIfTI is turned as axial slices and whole volumes are, and axes of one voxel are dropped; PNG (grey or palette) and
    `.npz` are taken as they are.

    Raises:
        DataError: no such file, another format, a damaged file, values that are no whole numbers >= 0, no label, or
            neither two nor three axes.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such label map.")
    try:
        labels = _read(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: cannot be read as a label map; it is damaged or not what its name says.") from error
    if labels.ndim not in (2, 3):
        raise DataError(f"{path}: has {labels.ndim} axes; a label map has two or three.")
    if labels.dtype.kind not in "biuf" or (labels < 0).any() or (labels != np.round(labels)).any() or not labels.any():
        raise DataError(f"{path}: labels must be whole numbers, 0 for nothing, and not all 0.")
    return labels.astype(np.int64)


def _read(path: Path) -> np.ndarray:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        scan = nib.nifti1.load(path)
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(scan.affine), nib.orientations.axcodes2ornt(VOLUME)
        )
        return np.squeeze(nib.orientations.apply_orientation(np.asanyarray(scan.dataobj), turn))
    if name.endswith(".png"):
        with Image.open(path) as picture:
            return np.asarray(picture)
    if name.endswith(".npz"):
        with np.load(path) as arrays:
            key = "labels" if "labels" in arrays else next(iter(arrays.files), "labels")
            if key != "labels" and len(arrays.files) > 1:
                raise DataError(f'{path}: holds several arrays; call the label map "labels".')
            return arrays[key]
    raise DataError(f"{path}: a label map is a .png, .nii, .nii.gz or .npz file.")
