"""Boxes cut out of volumes, in millimetres around a point of the patient."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float

from cfxai.data.scan import Scan
from cfxai.errors import DataError

Point = Float[np.ndarray, "3"]


def centre_of(scan: Scan) -> Point:
    """The middle of a volume, RAS, mm."""
    assert scan.affine is not None
    return _place((np.array(scan.pixels.shape[1:]) - 1) / 2, scan.affine)


def centres_of_labels(labels: Scan) -> dict[int, Point]:
    """The centre of mass of each label of a label map, RAS, mm."""
    assert labels.affine is not None
    values = labels.pixels[0]
    voxels = np.argwhere(values)
    found = np.rint(values[tuple(voxels.T)]).astype(int)
    return {int(label): _place(voxels[found == label].mean(0), labels.affine) for label in np.unique(found)}


def refuse_other_grid(other: Scan, image: Scan, path: Path) -> None:
    """Refuse a label map that does not lie voxel for voxel on its image.

    Raises:
        DataError: naming the label map.
    """
    assert other.affine is not None
    assert image.affine is not None
    if other.pixels.shape != image.pixels.shape or not np.allclose(other.affine, image.affine, atol=0.1):
        raise DataError(f"{path}: does not lie on the grid of its image; copy both again, or resample it.")


def write_crop(scan: Scan, centre: Point, extent: Sequence[float], path: Path, fill: float) -> None:
    """Write the box of `scan` around `centre` as NIfTI, its axes from left to right, back to front and foot to head.

    Nothing is interpolated: the box has the scan's voxels, and starts at the nearest of them.

    Args:
        scan: a volume.
        centre: RAS, mm.
        extent: mm from right to left, front to back and head to foot.
        path: a `.nii.gz` file.
        fill: what lies outside the scan.
    """
    whole = nib.as_closest_canonical(nib.Nifti1Image(scan.pixels[0], scan.affine))
    spacing = np.linalg.norm(whole.affine[:3, :3], axis=0)
    size = np.maximum(np.rint(np.array(extent) / spacing), 1).astype(int)
    middle = _place(centre, np.linalg.inv(whole.affine))
    first = np.rint(middle - (size - 1) / 2).astype(int)
    box = np.full(size, fill, np.float32)
    low, high = np.maximum(first, 0), np.minimum(first + size, whole.shape)
    if (low < high).all():
        source, target = (
            tuple(slice(a, b) for a, b in zip(low - shift, high - shift, strict=True)) for shift in (0 * first, first)
        )
        box[target] = np.asarray(whole.dataobj)[source]
    affine = whole.affine.copy()
    affine[:3, 3] = _place(first.astype(float), whole.affine)
    whole_numbers = not (box % 1).any() and np.abs(box).max() < 2**15
    nib.save(nib.Nifti1Image(box.astype(np.int16) if whole_numbers else box, affine), path)


def _place(point: Float[np.ndarray, "3"], affine: Float[np.ndarray, "4 4"]) -> Point:
    return affine[:3, :3] @ point + affine[:3, 3]
