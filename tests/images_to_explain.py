"""Images to explain, with a bright spot or written as DICOM."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

BRIGHT, DARK = 230, 40  # of 255: +0.80 and -0.69 of [-1, 1]


def spot(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    picture = np.full((height, width), DARK, np.uint8)
    picture[rows, columns] = BRIGHT
    return picture


def write_dicom(path: Path, pixels: np.ndarray, spacing: float = 6.0) -> Path:
    """A CT slice in HU with identifiers."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4711"
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Musterfrau^Erika", "ID-SECRET-4711", "CT"
    dataset.AccessionNumber, dataset.PatientBirthDate = "ACC-0815-99", "19700101"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing, dataset.SamplesPerPixel = [spacing, spacing], 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.RescaleSlope, dataset.RescaleIntercept = 15, 1, 0
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset.save_as(path)
    return path


def write_text_as_png(folder: Path) -> Path:
    (folder / "x.png").write_text("hello")
    return folder / "x.png"
