"""An image as its user gives it, opened and prepared exactly as the run's own images were."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, Int
from PIL import Image as Pil

from cfxai.data.geometry import WHOLE, Axis, as_displayed, display
from cfxai.data.intensity import Fingerprint, FullRange, Percentile, Window
from cfxai.data.prepare import Row, prepare
from cfxai.data.readers import read_image
from cfxai.data.recipe import Recipe
from cfxai.data.reference import Reference, Stacks
from cfxai.data.scan import Images, Scan
from cfxai.errors import DataError
from cfxai.explaining.bounds import refuse_huge, refuse_small

Openable = str | Path | np.ndarray | Pil.Image
"""A file (or a folder with the slices of a DICOM series), an array of native values, or a Pillow picture."""


@dataclass(frozen=True)
class Opened:
    """An image as it was stored and as the classifier takes it.

    Attributes:
        name: what messages and files call it.
        pixels: [colours depth h w], native values the way they are looked at; depth = 1 for pictures.
        images: [n c *spatial] in [-1, 1]: n of the slices, or the one picture or volume.
        slices: [n], which of the slices each image is; one 0 where the image is a picture or a whole volume.
        axes: how the spatial axes of `images` were sampled.
        limits: the native values that became -1 and 1.
        value_range: least and greatest value that the format holds; None for open scales such as HU.
        plane: the plane in which volumes are looked at; None for pictures.
        affine: of a volume, voxel to patient, RAS, mm. file_shape: shape of its file.
        pixel_size: mm² of a pixel, mm³ of a voxel; None where unknown.
        channel: the channel of `images` that explanations belong to, where others are neighbours; None = all alike.
        notes: what was assumed, in sentences.
    """

    name: str
    pixels: Float[np.ndarray, "colours depth h w"]
    images: Images
    slices: Int[np.ndarray, " n"]
    axes: list[Axis]
    limits: tuple[float, float]
    value_range: tuple[float, float] | None = None
    plane: str | None = None
    affine: np.ndarray | None = None
    file_shape: tuple[int, ...] = ()
    pixel_size: float | None = None
    channel: int | None = None
    notes: tuple[str, ...] = ()

    def only(self, number: int) -> "Opened":
        """With one slice of a volume in slices to be explained; pictures and whole volumes as they are.

        Raises:
            DataError: a slice that the run does not look at.
        """
        if self.plane in (None, *WHOLE):
            return self
        chosen = self.slices == number
        if not chosen.any():
            raise DataError(f"{self.name}: slice {number} is none of those that the run looks at (data.slice_range).")
        return replace(self, images=self.images[chosen], slices=self.slices[chosen])

    @classmethod
    def prepared(
        cls, name: str, image: Float[np.ndarray, "c *spatial"], channel: int | None = None, plane: str = "volume"
    ) -> "Opened":
        """An image that is prepared already, in [-1, 1], such as one of the run's own; a picture of its own size.

        A volume lies as `plane` shows it.
        """
        image = np.array(image)
        own = image if channel is None else image[channel : channel + 1]
        picture = own.ndim == 3
        return cls(
            name=name,
            pixels=own[:, None] if picture else own,
            images=image[None],
            slices=np.zeros(1, int),
            axes=[Axis(length, 0.0, float(length), length) for length in image.shape[1:]],
            limits=(-1.0, 1.0),
            value_range=(-1.0, 1.0),
            plane=None if picture else plane,
            affine=None if picture else as_displayed(plane),
            file_shape=own.shape[1:],
            channel=channel,
        )


def open_image(image: Openable, recipe: Recipe, channels: int | None = None, name: str | None = None) -> Opened:
    """Reads an image and prepares it by a run's recipe.

    Args:
        image: see `Openable`; an array is [row, column], [row, column, 3] or, axial, [slice, row, column].
        recipe: of the run.
        channels: that its classifier takes, where the recipe leaves that to the files.
        name: what messages call the image; its path if None.

    Raises:
        DataError: it cannot be read, is huge or tiny, or is not of the kind that the run explains.
    """
    with _as_file(image) as path:
        called = name or (str(path) if isinstance(image, str | Path) else "the image")
        try:
            return _open(path, recipe, channels, called)
        except DataError as error:
            if called == str(path):
                raise
            raise DataError(str(error).replace(str(path), called)) from error


def _open(path: Path, recipe: Recipe, channels: int | None, name: str) -> Opened:
    refuse_huge(path)
    scan = read_image(path)
    refuse_small(scan, name)
    recipe, notes = _unlabelled(recipe, scan, channels, name)
    prepared = prepare(Row(Reference(path), sha256=""), recipe, Stacks())
    if not prepared.slices:
        raise DataError(f"{name}: none of its slices lies in the run's data.slice_range {list(recipe.slice_range)}.")
    shown = display(scan, recipe.plane)
    whole = scan.is_volume and recipe.plane in WHOLE
    size = None if scan.spacing is None else float(np.prod(scan.spacing))
    assert not isinstance(recipe.intensity, Fingerprint), "a run's recipe has its window"
    return Opened(
        name=name,
        pixels=shown.pixels[:, 0] if whole else shown.pixels,
        images=prepared.images,
        slices=np.asarray(prepared.slices),
        axes=[Axis(**axis) for axis in prepared.geometry["axes"]],
        limits=recipe.intensity.limits(scan, name),
        value_range=scan.value_range,
        plane=recipe.plane if scan.is_volume else None,
        affine=scan.affine,
        file_shape=scan.file_shape,
        pixel_size=size,
        channel=recipe.neighbours or None,
        notes=tuple(notes),
    )


def _unlabelled(recipe: Recipe, scan: Scan, channels: int | None, name: str) -> tuple[Recipe, list[str]]:
    """The recipe without what needs a mask, for every slice, and fitted to what is known of this image."""
    notes = []
    if not scan.is_volume and recipe.plane in WHOLE:
        raise DataError(f"{name}: is a picture, and this run explains volumes; give NIfTI, NRRD or a DICOM series.")
    if not scan.is_volume and recipe.neighbours:
        raise DataError(f"{name}: is a picture, and this run looks at slices between their neighbours; give a volume.")
    if scan.is_volume and recipe.min_organ_area and recipe.plane not in WHOLE:
        notes.append("The run learned from slices that show the organ; here every slice is explained.")
    recipe = replace(
        recipe,
        anomaly=None,
        organ_labels=None,
        organ_masks=False,
        min_organ_area=0.0,
        min_lesion_area=0.0,
        slice_step=1,
        channels=recipe.channels or (channels if channels in (1, 3) and not recipe.neighbours else None),
    )
    if recipe.channels == 1 and len(scan.pixels) == 3:
        notes.append("The image is in colour; the classifier sees it in grey.")
    if recipe.field_of_view is not None and scan.spacing is None:
        recipe = replace(recipe, field_of_view=None)
        notes.append("The size of its pixels in mm is unknown; the whole picture is taken as the field of view.")
        if isinstance(recipe.intensity, Window) and scan.value_range is not None:
            recipe = replace(recipe, intensity=FullRange())
            notes.append("Its values are no HU; their full range is taken as the run's window.")
    if isinstance(recipe.intensity, FullRange) and scan.value_range is None:
        recipe = replace(recipe, intensity=Percentile(0.0, 100.0))
        notes.append("Its scale has no full range, as the run's images have; its extremes are taken for it.")
    return recipe, notes


@contextmanager
def _as_file(image: Openable) -> Iterator[Path]:
    """The image's path; arrays and pictures get one for the while, so that one reader knows all formats."""
    if isinstance(image, str | Path):
        yield Path(image)
        return
    with TemporaryDirectory() as folder:
        if isinstance(image, Pil.Image):
            path = Path(folder, "image.tiff")
            image.save(path)
        else:
            path = Path(folder, "image.npy")
            np.save(path, image, allow_pickle=False)
        yield path
