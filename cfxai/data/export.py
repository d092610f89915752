"""Masks back to the files they came from: PNG for pictures, NIfTI with the original geometry for volumes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image as Pil

from cfxai.data.geometry import WHOLE, Axis, from_display, restore
from cfxai.data.scan import Masks
from cfxai.errors import DataError


@dataclass(frozen=True)
class Origin:
    """Where the items of a split come from.

    Attributes:
        sources: name of the file of each item.
        slices: number of each item in its volume; 0 for pictures and whole volumes.
        geometry: by source, how its pixels were sampled; see `cfxai.data.prepare`.
    """

    sources: list[str]
    slices: list[int]
    geometry: dict[str, dict[str, Any]]


def export_masks(masks: Masks, origin: Origin, files: Mapping[str, Path], plane: str, directory: Path) -> list[Path]:
    """One file per picture (PNG, 0 and 255) or volume (NIfTI, 0 and 1), at the original resolution.

    A NIfTI file has the shape, orientation and affine of the volume it belongs to; slices without a mask are 0. Each
    original pixel takes the value of the cell in which its centre lies.

    Args:
        masks: [n *spatial], in the order of the split.
        origin: where each mask comes from.
        files: by source, the original file.
        plane: the plane in which volumes were cut.
        directory: made if need be.
    """
    if len(masks) != len(origin.sources):
        raise DataError(f"There are {len(masks)} masks for {len(origin.sources)} images; give one for each, in order.")
    directory.mkdir(parents=True, exist_ok=True)
    members: dict[str, list[int]] = defaultdict(list)
    for item, source in enumerate(origin.sources):
        members[source].append(item)
    written = []
    for source, items in members.items():
        geometry = origin.geometry[source]
        axes = [Axis(**axis) for axis in geometry["axes"]]
        restored = restore(masks[items], axes)
        if geometry["affine"] is None:
            path = directory / f"{source}.png"
            Pil.fromarray(restored[0].astype(np.uint8) * 255).save(path)
        else:
            path = directory / f"{source}.nii.gz"
            stack = np.zeros((geometry["slices"], *restored.shape[1:]), dtype=np.uint8)
            stack[[origin.slices[item] for item in items]] = restored
            displayed = stack[0] if plane in WHOLE else stack
            _save_nifti(displayed, geometry, files[source], plane, path)
        written.append(path)
    return written


def _save_nifti(displayed: np.ndarray, geometry: dict[str, Any], original: Path, plane: str, path: Path) -> None:
    affine = np.asarray(geometry["affine"])
    values = from_display(displayed, affine, plane).reshape(geometry["file_shape"])
    if not original.name.lower().endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(values, affine), path)
        return
    source: Any = nib.load(
        original
    )  # its header keeps the affine to the last bit, and the codes that say what it means
    image = type(source)(values, affine, source.header)
    image.header.extensions.clear()
    image.set_data_dtype(np.uint8)
    image.header["cal_min"] = image.header["cal_max"] = 0
    nib.save(image, path)
