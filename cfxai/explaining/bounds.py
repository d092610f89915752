"""What is refused before it is decoded: files that would fill the memory, and images too small to mean anything."""

import gzip
import warnings
from pathlib import Path

import pydicom
from PIL import Image as Pil
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cfxai.data.dicom import header
from cfxai.data.readers import is_dicom
from cfxai.data.scan import Scan
from cfxai.errors import DataError

MOST_VOXELS = 2**28
"""A CT of 512 x 512 x 1024 voxels; 1 GiB as float32."""
MOST_BYTES = 8 * MOST_VOXELS
"""That a compressed volume may unpack to: voxels of at most 64 bit."""
LEAST_SIDE = 8
"""Pixels."""
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
CHUNK = 2**24


def refuse_huge(path: Path) -> None:
    """Looks at headers, and at the length of compressed streams, only.

    Raises:
        DataError: decoding the file would take more memory than an image is worth. Files that cannot be read at all
            pass; the reader says what is wrong with them.
    """
    name = path.name.lower()
    if not path.is_file():
        return
    if name.endswith(PICTURES):
        _refuse_huge_picture(path)
    elif name.endswith(".nii.gz"):
        _refuse_long_stream(path)
    elif is_dicom(path):
        _refuse_huge_dicom(path)


def refuse_small(scan: Scan, name: str) -> None:
    """Raises DataError for images of fewer than `LEAST_SIDE` pixels along a side of every slice."""
    sides = sorted(scan.pixels.shape[1:])[-2:]
    if min(sides) < LEAST_SIDE:
        size = " x ".join(map(str, scan.pixels.shape[1:]))
        raise DataError(f"{name}: has {size} pixels, too few to explain; give at least {LEAST_SIDE} x {LEAST_SIDE}.")
    if scan.pixels[0].size > MOST_VOXELS:
        raise _too_large(name, f"{scan.pixels[0].size:,} pixels", f"{MOST_VOXELS:,}")


def _refuse_huge_picture(path: Path) -> None:
    most = Pil.MAX_IMAGE_PIXELS or MOST_VOXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
            with Pil.open(path) as file:
                width, height = file.size
    except Pil.DecompressionBombError as error:
        raise _too_large(str(path), "too many pixels", f"{most:,}") from error
    except (OSError, ValueError, SyntaxError):
        return
    if width * height > most:
        raise _too_large(str(path), f"{width} x {height} pixels", f"{most:,}")


def _refuse_long_stream(path: Path) -> None:
    length = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(CHUNK):
                length += len(chunk)
                if length > MOST_BYTES:
                    raise _too_large(str(path), f"more than {MOST_BYTES:,} bytes unpacked", f"{MOST_BYTES:,}")
    except (OSError, EOFError, ValueError):
        return


def _refuse_huge_dicom(path: Path) -> None:
    try:
        deflated = read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    except (OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError):
        return
    if deflated:  # its header cannot be read without unpacking all of it
        raise DataError(f"{path}: is a deflated DICOM file, whose size cannot be checked; save it uncompressed.")
    found = header(path)
    voxels = int(found.get("Rows") or 0) * int(found.get("Columns") or 0) * int(found.get("NumberOfFrames") or 1)
    if voxels > MOST_VOXELS:
        raise _too_large(str(path), f"{voxels:,} pixels", f"{MOST_VOXELS:,}")


def _too_large(name: str, what: str, most: str) -> DataError:
    return DataError(f"{name}: has {what}, and {most} is the most that is read; crop or shrink it.")
