"""Readers give native values and geometry, or one error that names the file; checked against independent decoders."""

import gzip
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from cfxai.data.intensity import FullRange, Percentile, Window, to_unit
from cfxai.data.readers import read_image
from cfxai.data.scan import Scan
from cfxai.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2] / "shared/data/files"
needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason="real files are not here")
SERIES = generate_uid()


def dicom(path: Path, stored: np.ndarray, **tags: object) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(stored.dtype == np.int16)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = SERIES
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def stored(dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (5, 7)).astype(dtype)


def test_ct_is_in_hu_whatever_its_window(tmp_path: Path) -> None:
    values = stored(np.int16)
    path = dicom(
        tmp_path / "a.dcm",
        values,
        Modality="CT",
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
    )
    scan = read_image(path)
    np.testing.assert_array_equal(scan.pixels[0], values * 2.0 - 1024)
    assert scan.value_range is None


def test_radiograph_is_windowed_then_inverted_where_white_is_low(tmp_path: Path) -> None:
    values = stored()
    tags = {"Modality": "DX", "BitsStored": 12, "HighBit": 11, "WindowCenter": 500, "WindowWidth": 400}
    plain = read_image(dicom(tmp_path / "a.dcm", values, **tags))
    inverted = read_image(dicom(tmp_path / "b.dcm", values, **tags | {"PhotometricInterpretation": "MONOCHROME1"}))
    expected = np.clip(((values - 499.5) / 399 + 0.5) * 4095, 0, 4095)  # DICOM PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(plain.pixels[0], expected, rtol=1e-5)
    np.testing.assert_allclose(inverted.pixels[0], 4095 - expected, atol=1e-2)
    assert plain.value_range == inverted.value_range == (0, 4095)


def test_rle_is_decoded(tmp_path: Path) -> None:
    values = stored()
    dataset = pydicom.dcmread(dicom(tmp_path / "a.dcm", values, Modality="MR"))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm").pixels[0], values)


def series(folder: Path, heights: list[float]) -> np.ndarray:
    folder.mkdir()
    volume = np.random.default_rng(1).integers(0, 1000, (len(heights), 5, 7)).astype(np.int16)
    for number, height in enumerate(heights):
        tags = {
            "ImagePositionPatient": [-10.0, -20.0, height],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.8],
        }
        dicom(folder / f"{number}.dcm", volume[number], Modality="CT", RescaleSlope=1, RescaleIntercept=0, **tags)
    return volume


def test_series_is_sorted_by_position_and_placed_in_ras(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", [6.0, 0.0, 3.0])
    scan = read_image(tmp_path / "s")
    np.testing.assert_array_equal(scan.pixels[0], np.transpose(volume[[1, 2, 0]], (2, 1, 0)))
    np.testing.assert_allclose(scan.affine, [[-0.8, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 3, 0], [0, 0, 0, 1]])


def test_series_with_a_gap_is_refused(tmp_path: Path) -> None:
    series(tmp_path / "s", [0.0, 3.0, 9.0])
    with pytest.raises(DataError, match="a slice is missing or doubled"):
        read_image(tmp_path / "s")


def test_nrrd_and_nifti_agree_on_where_a_voxel_is(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.array([[-2.0, 0, 0, 30], [0, -1.5, 0.1, 40], [0, 0.1, 3, -50], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header)
    first, second = read_image(tmp_path / "a.nii.gz"), read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-6)
    np.testing.assert_allclose(first.spacing, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_keep_their_bits(tmp_path: Path, dtype: type, top: int, suffix: str) -> None:
    values = np.random.default_rng(3).integers(0, top, (6, 8)).astype(dtype)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    scan = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(scan.pixels[0], values)
    assert scan.value_range == (0, top)


def test_colour_stays_and_grey_palettes_become_grey(tmp_path: Path) -> None:
    colour = np.random.default_rng(4).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.moveaxis(colour, -1, 0))
    Image.fromarray(colour[..., 0]).convert("P").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").pixels, colour[None, ..., 0])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz", "a.nrrd", "a.dcm", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"this is a text, not an image"])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_image(tmp_path / name)


@settings(max_examples=20)
@given(st.floats(0.0, 0.999), st.sampled_from(["a.nii", "a.nii.gz", "a.png", "a.dcm", "a.nrrd", "a.npy"]))
def test_truncated_files_are_refused_unless_every_pixel_is_there(
    tmp_path_factory: pytest.TempPathFactory, part: float, name: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    values = np.random.default_rng(5).integers(0, 1000, (8, 8, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "a.nii")
    (folder / "a.nii.gz").write_bytes(gzip.compress((folder / "a.nii").read_bytes()))
    Image.fromarray(values[0].astype(np.uint16)).save(folder / "a.png")
    nrrd.write(str(folder / "a.nrrd"), values)
    np.save(folder / "a.npy", values)
    dicom(folder / "a.dcm", values[0], Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    whole = (folder / name).read_bytes()
    complete = read_image(folder / name).pixels
    (folder / name).write_bytes(whole[: int(part * len(whole))])
    with suppress(DataError):
        np.testing.assert_array_equal(read_image(folder / name).pixels, complete)


def test_pixels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), np.nan, dtype=np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"a\.nii: has pixels that are not finite"):
        read_image(tmp_path / "a.nii")


@needs_files
def test_real_dicom_files_are_read() -> None:
    files = sorted(SHARED.glob("dicom_*/*.dcm"))
    shapes = {file.stem[:10]: read_image(file).pixels.shape for file in files}
    assert len(shapes) == 8
    assert shapes["examples_p"] == (3, 350, 800)
    np.testing.assert_array_equal(
        read_image(files[-1].with_name("MR_small.dcm")).pixels,
        read_image(files[-1].with_name("MR_small_RLE.dcm")).pixels,
    )


def test_intensities_reach_both_ends_and_are_never_rounded_to_8_bits() -> None:
    scan = Scan(np.linspace(-500, 500, 4001, dtype=np.float32).reshape(1, 1, -1))
    low, high = Window(-160.0, 240.0).limits(scan, "")
    unit = to_unit(scan.pixels, low, high)
    np.testing.assert_allclose(unit, np.clip((scan.pixels + 160) / 200 - 1, -1, 1), atol=1e-6)
    assert len(np.unique(unit)) > 1500
    np.testing.assert_allclose(Percentile(10.0, 90.0).limits(scan, ""), (-400, 400), atol=0.1)
    with pytest.raises(DataError, match=r"x\.nii: its values have no full range"):
        FullRange().limits(scan, "x.nii")
    with pytest.raises(DataError, match="constant"):
        Percentile().limits(Scan(np.zeros((1, 4, 4), dtype=np.float32)), "x.png")
    with pytest.raises(ConfigError, match="below upper"):
        Window(240.0, -160.0)
