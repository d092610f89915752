"""DICOM files and series: CT in HU, radiographs through their VOI LUT or window, MONOCHROME1 inverted."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from cfxai.data.scan import Scan, volume
from cfxai.errors import DataError

# Their values mean something and are only rescaled; other modalities are read the way they are meant to be shown.
QUANTITATIVE = {"CT", "MR", "PT", "NM"}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_dicom(path: Path) -> Scan:
    """One DICOM file: a picture [c, row, column], or a volume when it has several frames."""
    dataset = _read(path)
    pixels, value_range = _values(dataset)
    spacing = _pixel_spacing(dataset)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames == 1:
        channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        return Scan(np.ascontiguousarray(channels), None, spacing, value_range, pixels.shape[:2])
    if pixels.ndim != 3:
        raise DataError(f"{path}: several colour frames in one file; save one image per file.")
    places = [_frame_place(dataset, frame) for frame in range(frames)]
    return _stack(list(pixels), places, _frame_spacing(dataset) or spacing or (1.0, 1.0), path, value_range)


def read_series(path: Path) -> Scan:
    """A folder of DICOM slices as one volume, sorted by position along the normal of the slices."""
    datasets = [_read(file) for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    if not datasets:
        raise DataError(f"{path}: the folder has no DICOM slices.")
    series = {str(dataset.get("SeriesInstanceUID", "")) for dataset in datasets}
    if len(series) > 1:
        raise DataError(f"{path}: holds {len(series)} DICOM series; keep one series in a folder.")
    if len({(dataset.Rows, dataset.Columns) for dataset in datasets}) > 1:
        raise DataError(f"{path}: its slices differ in size; keep one series in a folder.")
    slices = [_values(dataset) for dataset in datasets]
    places = [_place(dataset) for dataset in datasets]
    if any(place is None for place in places):
        raise DataError(f"{path}: a slice has no ImagePositionPatient, so the order of the slices is unknown.")
    return _stack(
        [pixels for pixels, _ in slices], places, _pixel_spacing(datasets[0]) or (1.0, 1.0), path, slices[0][1]
    )


def header(path: Path) -> pydicom.Dataset:
    """A DICOM file without its pixels."""
    return _read(path, stop_before_pixels=True)


Place = tuple[np.ndarray, np.ndarray]  # position [3] and orientation [6], LPS, mm


def _read(path: Path, stop_before_pixels: bool = False) -> pydicom.Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
    except Exception as error:  # pydicom raises whatever its parsers met
        raise DataError(
            f"{path}: not a readable DICOM file ({' '.join(str(error).split())}); copy it again."
        ) from error
    if not stop_before_pixels and "PixelData" not in dataset:
        raise DataError(f"{path}: has no pixel data: it is truncated, or not an image.")
    return dataset


def _values(dataset: pydicom.Dataset) -> tuple[Float[np.ndarray, "..."], tuple[float, float] | None]:
    """Pixels in physical or display units, and the range of the display units."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(dataset)
    except Exception as error:  # pydicom and its codecs raise whatever they met
        reason = " ".join(str(error).split())
        raise DataError(f"{dataset.filename}: its pixels cannot be decoded ({reason}); copy it again.") from error


def _decode(dataset: pydicom.Dataset) -> tuple[np.ndarray, tuple[float, float] | None]:
    stored = pixel_array(dataset)
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        colour = apply_color_lut(stored, dataset)
        grey = bool((colour[..., :1] == colour).all())
        return (colour[..., 0] if grey else colour[..., :3]).astype(np.float32), (
            0.0,
            float(np.iinfo(colour.dtype).max),
        )
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    span = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=stored.dtype)
    if int(dataset.SamplesPerPixel) > 1:
        return stored.astype(np.float32), (float(span[0]), float(span[1]))
    physical = apply_modality_lut(stored, dataset)
    if dataset.get("Modality") in QUANTITATIVE:
        return physical.astype(np.float32), None
    span = apply_modality_lut(span, dataset) if "ModalityLUTSequence" not in dataset else np.array([0, physical.max()])
    if "VOILUTSequence" in dataset or "WindowWidth" in dataset:
        physical, span = apply_voi_lut(physical, dataset), apply_voi_lut(span, dataset)
    low, high = float(span.min()), float(span.max())
    shown = low + high - physical if photometric == "MONOCHROME1" else physical
    return shown.astype(np.float32), (low, high)


def _pixel_spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """mm along rows and columns: in the patient when known, at the detector else."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(name)
        if value is not None and len(value) == 2 and min(float(v) for v in value) > 0:
            return float(value[0]), float(value[1])
    return None


def _place(dataset: pydicom.Dataset) -> Place | None:
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    if position is None or orientation is None:
        return None
    return np.asarray(position, dtype=float), np.asarray(orientation, dtype=float)


def _functional(dataset: pydicom.Dataset, frame: int, group: str) -> pydicom.Dataset | None:
    """A functional group of an enhanced multi-frame file: the frame's own, or the one shared by all."""
    per_frame, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    for item in ([per_frame[frame]] if per_frame else []) + ([shared[0]] if shared else []):
        if item.get(group):
            return item[group].value[0]
    return None


def _frame_place(dataset: pydicom.Dataset, frame: int) -> Place | None:
    position, orientation = (
        _functional(dataset, frame, f"Plane{name}Sequence") for name in ("Position", "Orientation")
    )
    if position is None or orientation is None:
        return None
    return np.asarray(position.ImagePositionPatient, dtype=float), np.asarray(
        orientation.ImageOrientationPatient, dtype=float
    )


def _frame_spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    measures = _functional(dataset, 0, "PixelMeasuresSequence")
    return _pixel_spacing(measures) if measures is not None else None


def _stack(
    slices: list[np.ndarray],
    places: list[Place | None],
    spacing: tuple[float, float],
    path: Path,
    value_range: tuple[float, float] | None,
) -> Scan:
    """Slices [row, column] and where they lie as one volume [column, row, slice] with its affine.

    Frames without a place (ultrasound, for one) are kept in order, 1 mm apart, as axial slices.
    """
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        known = [(np.array([0.0, 0.0, float(k)]), np.array([1.0, 0, 0, 0, 1, 0])) for k in range(len(places))]
    along_row, along_column = known[0][1][:3], known[0][1][3:]
    normal = np.cross(along_row, along_column)
    if any(np.abs(orientation - known[0][1]).max() > 1e-3 for _, orientation in known):
        raise DataError(f"{path}: its slices are not parallel; keep one stack of slices in a folder.")
    heights = np.array([position @ normal for position, _ in known])
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    gap = float(np.median(gaps)) if len(gaps) else 1.0
    if len(gaps) and (gaps.min() <= 1e-3 or np.abs(gaps - gap).max() > 0.1 * gap + 1e-2):
        raise DataError(
            f"{path}: slice gaps go from {gaps.min():.2f} to {gaps.max():.2f} mm; a slice is missing or doubled."
        )
    step = (known[order[-1]][0] - known[order[0]][0]) / max(len(gaps), 1) if len(gaps) else normal * gap
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.stack([along_row * spacing[1], along_column * spacing[0], step], axis=1)
    affine[:3, 3] = LPS_TO_RAS @ known[order[0]][0]
    values = np.stack([slices[k].T for k in order], axis=-1)
    scan = volume(values.astype(np.float32), affine, path)
    return Scan(scan.pixels, scan.affine, scan.spacing, value_range, scan.file_shape)
