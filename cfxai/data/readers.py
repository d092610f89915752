"""Image files as float32 arrays with their geometry: NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF, .npy and .npz."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
from PIL import Image as Pil

from cfxai.data.dicom import read_dicom, read_series
from cfxai.data.geometry import as_displayed
from cfxai.data.metaimage import read_metaimage
from cfxai.data.reference import Reference, Stacks
from cfxai.data.scan import Scan, volume
from cfxai.errors import DataError

FULL_RANGE = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0), np.dtype(bool): (0.0, 1.0)}


def read_image(source: Reference | Path, stacks: Stacks | None = None) -> Scan:
    """The image at `source`.

    Raises:
        DataError: the file is missing, not what its name says, truncated, of an unknown kind, or not finite.
    """
    reference = source if isinstance(source, Reference) else Reference(Path(source))
    path = reference.path
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    try:
        whole = reference.array is None
        scan = _reader(path)(path) if whole else from_array((stacks or Stacks())[reference], path)
    except DataError:
        raise
    except Exception as error:  # each library raises whatever its parser met
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: cannot be read, it is damaged or not what its name says ({reason}); copy it again."
        ) from error
    if scan.pixels.size == 0:
        raise DataError(f"{reference}: the image has no pixels.")
    if not np.isfinite(scan.pixels).all():
        raise DataError(f"{reference}: has pixels that are not finite numbers; replace them in the file.")
    return scan


def is_image(path: Path) -> bool:
    """Whether the file's name (for DICOM without a suffix, its first bytes) is that of an image."""
    return path.name.lower().endswith(tuple(suffix for suffixes in READERS for suffix in suffixes)) or is_dicom(path)


def is_dicom(path: Path) -> bool:
    """Whether the file's name or first bytes are those of a DICOM file."""
    if path.suffix:
        return path.suffix.lower() in (".dcm", ".dicom", ".ima")
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _reader(path: Path) -> Callable[[Path], Scan]:
    if path.is_dir():
        return read_series
    for suffixes, reader in READERS.items():
        if path.name.lower().endswith(suffixes):
            return reader
    if is_dicom(path):
        return read_dicom
    known = ", ".join(sorted(suffix for suffixes in READERS for suffix in suffixes))
    raise DataError(f"{path}: unknown kind of image; known are {known}, .dcm, folders of DICOM slices, .npz stacks.")


def read_nifti(path: Path) -> Scan:
    """A NIfTI-1 or -2 volume, slope and intercept applied; the checksum of a gzip stream is verified."""
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(content)
    size = content[:4]
    kind = nib.Nifti2Image if size in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
    image = kind.from_bytes(content)
    return volume(np.asarray(image.dataobj, dtype=np.float32), image.affine, path)


def read_nrrd(path: Path) -> Scan:
    """An NRRD volume; a file without directions is taken as left-posterior-superior, as ITK does."""
    values, header = nrrd.read(str(path))
    size = min(values.ndim, 3)
    directions = np.asarray(header.get("space directions", np.diag(header.get("spacings", np.ones(size)))), dtype=float)
    origin = np.asarray(header.get("space origin", np.zeros(3)), dtype=float)
    if values.ndim != 3 or directions.shape != (3, 3):
        raise DataError(
            f"{path}: has shape {values.shape}; save it as one 3-D volume (a segmentation as one label map)."
        )
    space = str(header.get("space", "left-posterior-superior")).lower()
    short = {"lps": "left-posterior", "ras": "right-anterior", "las": "left-anterior"}.get(space, space)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions.T, origin
    affine[0] *= -1 if short.startswith("left") else 1
    affine[1] *= -1 if "posterior" in short else 1
    return volume(values.astype(np.float32), affine, path)


def read_picture(path: Path) -> Scan:
    """A PNG, JPEG or TIFF picture: 8 or 16 bit grey, 8 bit colour, 32 bit float."""
    with Pil.open(path) as file:
        pages, rawmode = getattr(file, "n_frames", 1), str(file.tile[0][3] if file.tile else "")
        if pages > 1:
            raise DataError(f"{path}: holds {pages} pages; save one image per file.")
        if "16" in rawmode and file.mode in ("RGB", "RGBA", "LA"):  # Pillow would drop to 8 bits
            raise DataError(f"{path}: 16 bit colour is not supported; save it as 16 bit grey or 8 bit colour.")
        if file.mode in ("L", "I", "F", "RGB") or file.mode.startswith("I;16"):
            values = np.asarray(file)
        else:
            values = np.asarray(file.convert("L" if file.mode in ("1", "LA") else "RGB"))
        if file.mode.startswith("I") and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)
        if file.mode == "P" and (values == values[..., :1]).all():  # a palette of greys
            values = values[..., 0]
    return from_array(values, path)


def read_npy(path: Path) -> Scan:
    """A `.npy` array: [row, column], [row, column, 3] or [slice, row, column]."""
    return from_array(np.load(path, allow_pickle=False), path)


def from_array(values: np.ndarray, path: Path) -> Scan:
    """An array without a header: [row, column], [row, column, 3 or 1], [1, row, column] or [slice, row, column]."""
    value_range = FULL_RANGE.get(values.dtype)
    if values.dtype.kind not in "uifb" or values.ndim not in (2, 3):
        raise DataError(f"{path}: an array of {values.dtype} with shape {values.shape} is not an image.")
    pixels = values.astype(np.float32)
    if values.ndim == 2:
        return Scan(pixels[None], value_range=value_range, file_shape=values.shape)
    if values.shape[-1] in (1, 3):
        return Scan(np.moveaxis(pixels, -1, 0), value_range=value_range, file_shape=values.shape[:2])
    if values.shape[0] == 1:
        return Scan(pixels, value_range=value_range, file_shape=values.shape[1:])
    # without a header, taken as axial slices the way they are looked at, 1 mm apart
    return Scan(pixels[None], as_displayed("axial"), None, value_range, values.shape)


READERS: dict[tuple[str, ...], Callable[[Path], Scan]] = {
    (".nii", ".nii.gz"): read_nifti,
    (".nrrd",): read_nrrd,
    (".mha",): read_metaimage,
    (".png", ".jpg", ".jpeg", ".tif", ".tiff"): read_picture,
    (".npy",): read_npy,
}
