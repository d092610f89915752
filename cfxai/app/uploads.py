"""A file that was uploaded: read once, then removed, and never called by its name."""

from pathlib import Path

from cfxai.data.readers import is_dicom
from cfxai.errors import DataError
from cfxai.explaining.opening import Opened
from cfxai.loaded import LoadedRun

MOST_MEGABYTES = 20
KINDS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")
NAME = "The image"


def receive(run: LoadedRun, upload: str | Path) -> Opened:
    """Opens an uploaded file and deletes it, whatever comes of it.

    Raises:
        DataError: it is too large, of another kind, or cannot be used.
    """
    path = Path(upload)
    try:
        if path.stat().st_size > MOST_MEGABYTES * 2**20:
            raise DataError(f"{NAME}: is larger than {MOST_MEGABYTES} MB; use tools/explain.py for it.")
        if not (path.name.lower().endswith(KINDS) or is_dicom(path)):
            raise DataError(f"{NAME}: must be a PNG, JPEG, TIFF, DICOM or NIfTI file.")
        return run.open(path, NAME)
    finally:
        path.unlink(missing_ok=True)
