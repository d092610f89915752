"""One row of the manifest to the images, masks and areas that a data set is made of."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int16

from cfxai.data.anomaly import insert
from cfxai.data.geometry import Axis, Displayed, display, resample
from cfxai.data.intensity import Fingerprint, to_unit
from cfxai.data.readers import read_image
from cfxai.data.recipe import Recipe
from cfxai.data.reference import Reference, Stacks
from cfxai.data.scan import Images, Masks
from cfxai.errors import DataError

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
ROUNDING = 1e-6  # sums of float32 weights miss a half by this little

RegionLabels = Int16[np.ndarray, "n *spatial"]


@dataclass(frozen=True)
class Row:
    """The files of one row of the manifest, and the SHA-256 of its image."""

    image: Reference
    sha256: str
    mask: Reference | None = None
    healthy: Reference | None = None
    region: Reference | None = None


@dataclass(frozen=True)
class Prepared:
    """What one row gives: n slices, or one picture or volume.

    Attributes:
        images: [n c *spatial] in [-1, 1]; with neighbours, c counts the slices from the lowest to the highest.
        masks: [n *spatial]; None without a mask.
        organs: [n *spatial]; None unless the recipe asks for organ masks.
        healthy: [n c *spatial], the paired lesion-free image, scaled by the image's own intensity limits.
        regions: [n *spatial], the region of each pixel, 0 = none; None without a region map.
        slices: number of each slice in its plane, counted from the feet, the back or the left; 0 for whole images.
        lesion: [n] whether there is a lesion; None without a mask.
        geometry: what `export` needs to undo all this.
        dropped: number of slices that each filter removed.
    """

    images: Images
    masks: Masks | None
    organs: Masks | None
    healthy: Images | None
    regions: RegionLabels | None
    slices: list[int]
    lesion: list[bool] | None
    geometry: dict[str, Any]
    dropped: dict[str, int]


def prepare(row: Row, recipe: Recipe, stacks: Stacks) -> Prepared:
    """Read, orient, select, resample and scale one row of the manifest.

    Raises:
        DataError: a file cannot be used, or mask, healthy image or region map do not lie on the image's grid.
    """
    assert not isinstance(recipe.intensity, Fingerprint), "a fingerprint is measured before images are prepared"
    scan = read_image(row.image, stacks)
    low, high = recipe.intensity.limits(scan, str(row.image))
    image = display(scan, recipe.plane)
    if recipe.neighbours and image.affine is None:
        raise DataError(f"{row.image}: a picture has no neighbouring slices; set data.neighbours=0.")
    axes = _axes(image, recipe, row.image)
    total = image.pixels.shape[1]
    positions = _positions(total, recipe)
    dropped = {"outside data.slice_range or skipped by data.slice_step": total - len(positions)}
    native = _native(row, recipe, image, (low, high), stacks)
    masks, organs, lesion = None, None, None
    if native.lesions is not None:
        shares, area = _shares(native.lesions[positions], image, axes)
        keep = (area == 0) | (area >= recipe.min_lesion_area)
        dropped["with a lesion smaller than data.min_lesion_area"] = int((~keep).sum())
        if native.organs is not None:
            organ_shares, organ_area = _shares(native.organs[positions], image, axes)
            enough = organ_area >= recipe.min_organ_area
            dropped["with less organ than data.min_organ_area"] = int((keep & ~enough).sum())
            keep &= enough
            organs = _majority(organ_shares[keep]) if recipe.organ_masks else None
        masks, lesion, positions = _majority(shares[keep]), (area > 0)[keep].tolist(), positions[keep]

    def finish(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        together = _with_neighbours(positions, recipe.neighbours, total)
        needed, place = np.unique(together, return_inverse=True)
        images = to_unit(resample(values[:, needed], axes, fill=low), low, high)
        images = np.swapaxes(_recolour(images, recipe.channels)[:, place.reshape(together.shape)], 0, 1)
        count, channels, slices, *spatial = images.shape
        return np.ascontiguousarray(images).reshape(count, channels * slices, *spatial)

    images = finish(native.images)
    healthy = None if native.healthy is None else finish(native.healthy)
    if recipe.anomaly is not None and healthy is not None and recipe.neighbours:
        beside = np.arange(images.shape[1]) != recipe.neighbours  # their own anomalies have no label and no mask here
        images[:, beside] = healthy[:, beside]

    return Prepared(
        images=images,
        masks=masks,
        organs=organs,
        healthy=healthy,
        regions=None if row.region is None else _regions(row.region, image, row.image, recipe, stacks, positions, axes),
        slices=positions.tolist(),
        lesion=lesion,
        geometry={
            "affine": None if scan.affine is None else scan.affine.tolist(),
            "file_shape": list(scan.file_shape),
            "slices": total,
            "axes": [asdict(axis) for axis in axes],
        },
        dropped={why: count for why, count in dropped.items() if count},
    )


@dataclass(frozen=True)
class _Native:
    """One row as it is looked at, before it is sampled: images [c n *spatial] in native values, masks [n *spatial]."""

    images: Float[np.ndarray, "..."]
    healthy: Float[np.ndarray, "..."] | None
    lesions: Bool[np.ndarray, "..."] | None
    organs: Bool[np.ndarray, "..."] | None


def _native(row: Row, recipe: Recipe, image: Displayed, limits: tuple[float, float], stacks: Stacks) -> _Native:
    """The image with its partners from files, or with the partners that a synthetic anomaly gives it."""
    if row.mask is None and recipe.organ_labels is not None:
        raise DataError(
            f"{row.image}: data.organ_labels needs a mask for every image;"
            " add one, or set data.organ_labels=null data.min_organ_area=0."
        )
    healthy = None if row.healthy is None else _on_grid(row.healthy, image, row.image, recipe.plane, stacks)
    if row.mask is None:
        return _Native(image.pixels, healthy, None, None)
    labels = labels_of(row.mask, image, row.image, recipe.plane, stacks)
    organs = None if recipe.organ_labels is None else among(labels, recipe.organ_labels)
    if recipe.anomaly is None or organs is None:
        return _Native(image.pixels, healthy, among(labels, recipe.lesion_labels), organs)
    healthy = np.clip(image.pixels, *limits)
    drawn, lesions = insert(recipe.anomaly, healthy, organs, case=row.sha256, spacing=image.spacing, limits=limits)
    return _Native(drawn, healthy, lesions, organs)


def labels_of(
    mask: Reference, image: Displayed, source: Reference, plane: str, stacks: Stacks
) -> Float[np.ndarray, "n *spatial"]:
    """The mask values of `image`, which was read from `source` and is shown in `plane`.

    Raises:
        DataError: the mask is a JPEG, cannot be read, or does not lie on the image's grid.
    """
    if mask.path.suffix.lower() in (".jpg", ".jpeg"):
        raise DataError(f"{mask}: JPEG blurs labels; save the mask as PNG.")
    return _on_grid(mask, image, source, plane, stacks).max(0)


def among(labels: Float[np.ndarray, "..."], wanted: tuple[int, ...] | None) -> Bool[np.ndarray, "..."]:
    """Where mask values are among the wanted ones (None: all but 0)."""
    return (labels != 0) if wanted is None else np.isin(labels, wanted)


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


def _with_neighbours(positions: Int[np.ndarray, " n"], neighbours: int, total: int) -> Int[np.ndarray, "n slices"]:
    """Each slice between its neighbours; at both ends of the volume the last slice is repeated."""
    return np.clip(positions[:, None] + np.arange(-neighbours, neighbours + 1), 0, total - 1)


def _on_grid(
    other: Reference, image: Displayed, source: Reference, plane: str, stacks: Stacks
) -> Float[np.ndarray, "..."]:
    """The pixels of a mask or healthy image; refused unless they lie pixel for pixel on the image's grid."""
    if other == source:
        return image.pixels
    second = display(read_image(other, stacks), plane)
    shape, expected = second.pixels.shape[1:], image.pixels.shape[1:]
    if shape != expected:
        raise DataError(f"{other}: its grid is {shape}, that of {source} is {expected}; resample one to the other.")
    if image.affine is not None and second.affine is not None:
        apart = np.abs(second.corners() - image.corners()).max()
        if apart > 0.5 * min(image.spacing):
            raise DataError(f"{other}: lies up to {apart:.1f} mm off the grid of {source}; resample one to the other.")
    return second.pixels


def _shares(
    selected: Bool[np.ndarray, "..."], image: Displayed, axes: list[Axis]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, " n"]]:
    """The share of each cell that the selected pixels fill, and their area inside the field of view.

    Binary before resampling, so that labels never mix. Area in mm² (mm³ for whole volumes), in pixels where the pixel
    size is unknown; rounded so that float32 weights do not move a threshold.
    """
    shares = resample(selected.astype(np.float32), axes, fill=0.0)
    cell = np.prod([axis.step * spacing for axis, spacing in zip(axes, image.spacing, strict=True)])
    total = shares.sum(axis=tuple(range(1, shares.ndim)), dtype=np.float64)
    return shares, np.round(total * cell, 3)


def _regions(
    region: Reference,
    image: Displayed,
    source: Reference,
    recipe: Recipe,
    stacks: Stacks,
    positions: Int[np.ndarray, " n"],
    axes: list[Axis],
) -> RegionLabels:
    """The region in which each cell's centre lies (the later of two pixels that meet there); 0 outside the image."""
    labels = labels_of(region, image, source, recipe.plane, stacks)
    if labels.min() < 0 or labels.max() > np.iinfo(np.int16).max or (labels % 1).any():
        raise DataError(f"{region}: regions must be whole numbers from 0 (none) to {np.iinfo(np.int16).max}.")
    labels = labels[positions].astype(np.int16)
    for position, axis in zip(range(-len(axes), 0), axes, strict=True):
        pixel = np.floor(axis.start + axis.step * (np.arange(axis.size) + 0.5)).astype(int)
        inside = ((pixel >= 0) & (pixel < axis.length)).reshape([-1] + [1] * (-position - 1))
        labels = np.take(labels, pixel.clip(0, axis.length - 1), axis=position) * inside
    return np.ascontiguousarray(labels)


def _majority(shares: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    return shares >= 0.5 - ROUNDING


def _recolour(images: Float[np.ndarray, "..."], channels: int | None) -> Float[np.ndarray, "..."]:
    """[c ...] to [channels ...]: grey from colour by luma, colour from grey by repetition."""
    if channels is None or channels == len(images):
        return images
    return np.tensordot(GREY, images, axes=1)[None] if channels == 1 else np.repeat(images, 3, axis=0)
