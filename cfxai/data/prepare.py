"""One row of the manifest to the images, masks and areas that a data set is made of."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cfxai.data.geometry import Axis, Displayed, display, resample
from cfxai.data.intensity import to_unit
from cfxai.data.readers import read_image
from cfxai.data.recipe import Recipe
from cfxai.data.reference import Reference, Stacks
from cfxai.data.scan import Images, Masks
from cfxai.errors import DataError

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
ROUNDING = 1e-6  # sums of float32 weights miss a half by this little


@dataclass(frozen=True)
class Row:
    """The files of one row of the manifest."""

    image: Reference
    mask: Reference | None = None
    healthy: Reference | None = None


@dataclass(frozen=True)
class Prepared:
    """What one row gives: n slices, or one picture or volume.

    Attributes:
        images: [n c *spatial] in [-1, 1].
        masks: [n *spatial]; None without a mask.
        healthy: [n c *spatial], the paired lesion-free image, scaled by the image's own intensity limits.
        slices: number of each slice in its plane, counted from the feet, the back or the left; 0 for whole images.
        lesion: [n] whether there is a lesion; None without a mask.
        geometry: what `export` needs to undo all this.
        dropped: number of slices that each filter removed.
    """

    images: Images
    masks: Masks | None
    healthy: Images | None
    slices: list[int]
    lesion: list[bool] | None
    geometry: dict[str, Any]
    dropped: dict[str, int]


def prepare(row: Row, recipe: Recipe, stacks: Stacks) -> Prepared:
    """Read, orient, select, resample and scale one row of the manifest.

    Raises:
        DataError: a file cannot be used, or mask or healthy image do not lie on the image's grid.
    """
    scan = read_image(row.image, stacks)
    low, high = recipe.intensity.limits(scan, str(row.image))
    image = display(scan, recipe.plane)
    axes = _axes(image, recipe, row.image)
    positions = _positions(image.pixels.shape[1], recipe)
    dropped = {"outside data.slice_range or skipped by data.slice_step": image.pixels.shape[1] - len(positions)}
    masks, lesion = None, None
    if row.mask is not None:
        if row.mask.path.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError(f"{row.mask}: JPEG blurs labels; save the mask as PNG.")
        labels = _on_grid(row.mask, image, row.image, recipe, stacks).max(0)[positions]
        shares, area = _shares(labels, recipe.lesion_labels, image, axes)
        keep = (area == 0) | (area >= recipe.min_lesion_area)
        dropped["with a lesion smaller than data.min_lesion_area"] = int((~keep).sum())
        if recipe.organ_labels is not None:
            enough = _shares(labels, recipe.organ_labels, image, axes)[1] >= recipe.min_organ_area
            dropped["with less organ than data.min_organ_area"] = int((keep & ~enough).sum())
            keep &= enough
        masks, lesion, positions = shares[keep] >= 0.5 - ROUNDING, (area > 0)[keep].tolist(), positions[keep]
    elif recipe.organ_labels is not None:
        raise DataError(
            f"{row.image}: data.organ_labels needs a mask for every image;"
            " add one, or set data.organ_labels=null data.min_organ_area=0."
        )

    def finish(native: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        images = to_unit(resample(native[:, positions], axes, fill=low), low, high)
        return np.ascontiguousarray(np.swapaxes(_recolour(images, recipe.channels), 0, 1))

    return Prepared(
        images=finish(image.pixels),
        masks=masks,
        healthy=None if row.healthy is None else finish(_on_grid(row.healthy, image, row.image, recipe, stacks)),
        slices=positions.tolist(),
        lesion=lesion,
        geometry={
            "affine": None if scan.affine is None else scan.affine.tolist(),
            "file_shape": list(scan.file_shape),
            "slices": image.pixels.shape[1],
            "axes": [asdict(axis) for axis in axes],
        },
        dropped={why: count for why, count in dropped.items() if count},
    )


def _axes(image: Displayed, recipe: Recipe, source: Reference) -> list[Axis]:
    if recipe.field_of_view is not None and not image.has_units:
        raise DataError(
            f"{source}: its pixel size in mm is unknown; set data.field_of_view=null to use the whole image."
        )
    lengths = zip(image.pixels.shape[2:], image.spacing, strict=True)
    return [Axis.fit(length, recipe.size, spacing, recipe.field_of_view) for length, spacing in lengths]


def _positions(total: int, recipe: Recipe) -> np.ndarray:
    if total == 1:
        return np.arange(1)
    relative = (np.arange(total) + 0.5) / total
    low, high = recipe.slice_range
    return np.flatnonzero((relative >= low) & (relative <= high))[:: recipe.slice_step]


def _on_grid(
    other: Reference, image: Displayed, source: Reference, recipe: Recipe, stacks: Stacks
) -> Float[np.ndarray, "..."]:
    """The pixels of a mask or healthy image; refused unless they lie pixel for pixel on the image's grid."""
    if other == source:
        return image.pixels
    second = display(read_image(other, stacks), recipe.plane)
    shape, expected = second.pixels.shape[1:], image.pixels.shape[1:]
    if shape != expected:
        raise DataError(f"{other}: its grid is {shape}, that of {source} is {expected}; resample one to the other.")
    if image.affine is not None and second.affine is not None:
        apart = np.abs(second.corners() - image.corners()).max()
        if apart > 0.5 * min(image.spacing):
            raise DataError(f"{other}: lies up to {apart:.1f} mm off the grid of {source}; resample one to the other.")
    return second.pixels


def _shares(
    labels: Float[np.ndarray, "..."], wanted: tuple[int, ...] | None, image: Displayed, axes: list[Axis]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, " n"]]:
    """The share of each cell that the wanted labels (None: all but 0) fill, and their area inside the field of view.

    Binary before resampling, so that labels never mix. Area in mm² (mm³ for whole volumes), in pixels where the pixel
    size is unknown; rounded so that float32 weights do not move a threshold.
    """
    selected = (labels != 0) if wanted is None else np.isin(labels, wanted)
    shares = resample(selected.astype(np.float32), axes, fill=0.0)
    cell = np.prod([axis.step * spacing for axis, spacing in zip(axes, image.spacing, strict=True)])
    total = shares.sum(axis=tuple(range(1, shares.ndim)), dtype=np.float64)
    return shares, np.round(total * cell, 3)


def _recolour(images: Float[np.ndarray, "..."], channels: int | None) -> Float[np.ndarray, "..."]:
    """[c ...] to [channels ...]: grey from colour by luma, colour from grey by repetition."""
    if channels is None or channels == len(images):
        return images
    return np.tensordot(GREY, images, axes=1)[None] if channels == 1 else np.repeat(images, 3, axis=0)
