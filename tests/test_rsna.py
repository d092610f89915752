"""RSNA's challenge from its own files, and DICOM to 16-bit PNG, on radiographs written here."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from rich.console import Console

from cfxai.data.convert import convert_folder, main
from cfxai.data.dataset import Data
from cfxai.data.intensity import FullRange
from cfxai.data.published.rsna_pneumonia import RsnaPneumonia, boxed
from cfxai.errors import DataError

LINES = """patientId,x,y,width,height,Target
a1,,,,,0
b2,8.0,4.0,10.0,6.0,1
b2,20.0,20.0,30.0,4.0,1
c3,,,,,0
d4,2.0,2.0,5.0,5.0,1
e5,,,,,0
f6,1.0,1.0,3.0,3.0,1
"""
CLASSES = """patientId,class
a1,Normal
b2,Lung Opacity
b2,Lung Opacity
c3,No Lung Opacity / Not Normal
d4,Lung Opacity
e5,Normal
f6,Lung Opacity
"""


def write_radiograph(
    path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 8, modality: str = "CR"
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.Modality, dataset.PhotometricInterpretation = path.stem, modality, photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    dataset.PixelData = pixels.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    dataset.save_as(path)


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    folder = tmp_path / "rsna"
    (folder / "stage_2_train_images").mkdir(parents=True)
    (folder / "stage_2_train_labels.csv").write_text(LINES)
    (folder / "stage_2_detailed_class_info.csv").write_text(CLASSES)
    random = np.random.default_rng(0)
    for name in ("a1", "b2", "c3", "d4", "e5", "f6"):
        write_radiograph(folder / f"stage_2_train_images/{name}.dcm", random.integers(0, 256, (32, 40)))
    return folder


def data(source: RsnaPneumonia, cache: Path) -> Data:
    return Data(source=source, intensity=FullRange(), size=32, val_fraction=0.34, test_fraction=0.34, cache=cache)


def test_a_patient_is_one_row_with_all_boxes_as_its_mask(challenge: Path, tmp_path: Path) -> None:
    found = data(RsnaPneumonia(challenge), tmp_path / "cache")
    splits = [found.split(name) for name in ("train", "val", "test")]
    groups = [group for split in splits for group in split.groups]
    assert sorted(groups) == ["a1", "b2", "c3", "d4", "e5", "f6"]
    labels = {group: int(label) for split in splits for group, label in zip(split.groups, split.labels, strict=True)}
    assert labels == {"a1": 0, "b2": 1, "c3": 0, "d4": 1, "e5": 0, "f6": 1}
    (mask,) = [split.masks[split.groups.index("b2")] for split in splits if "b2" in split.groups]
    expected = np.zeros((32, 40), bool)
    expected[4:10, 8:18] = expected[20:24, 20:40] = True  # the second box reaches beyond the image
    assert abs(mask.mean() - expected.mean()) < 0.03


def test_other_findings_can_be_left_out_of_what_is_normal(challenge: Path, tmp_path: Path) -> None:
    manifest = RsnaPneumonia(challenge, not_normal="left_out").manifest(tmp_path)
    assert "c3" not in manifest.read_text()
    assert RsnaPneumonia(challenge).manifest(tmp_path) != manifest


def test_boxes_are_half_open_and_clipped() -> None:
    assert boxed([(1, 0, 2, 1), (-5, 3, 6, 9)], (4, 4)).tolist() == [
        [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "stage_2_train_labels.csv").unlink(), "stage_2_train_labels.csv: no such file"),
        (lambda folder: (folder / "stage_2_train_images/d4.dcm").unlink(), "are missing: d4.dcm"),
        (lambda folder: edit(folder, "d4,2.0,2.0,5.0,5.0,1", "d4,,,,,1"), "d4 has an opacity without a box"),
        (lambda folder: edit(folder, "e5,,,,,0", "b2,,,,,0"), "b2 is in it with and without an opacity"),
        (lambda folder: edit(folder, "patientId,x", "patient,x"), "has no column patientId"),
    ],
)
def test_a_challenge_that_is_not_whole_is_named(challenge: Path, tmp_path: Path, change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    change(challenge)
    with pytest.raises(DataError, match=sentence):
        RsnaPneumonia(challenge).manifest(tmp_path)


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "stage_2_train_labels.csv"
    file.write_text(file.read_text().replace(old, new))


def test_png_keep_names_folders_depth_and_what_is_bright(tmp_path: Path) -> None:
    source, output = tmp_path / "dicom", tmp_path / "png"
    (source / "0").mkdir(parents=True)
    (source / "1").mkdir()
    ramp = np.arange(12 * 16).reshape(12, 16) * 21
    write_radiograph(source / "0/deep.dcm", ramp, bits=12)
    write_radiograph(source / "1/inverted.dcm", 4095 - ramp, "MONOCHROME1", bits=12)
    (source / "1/notes.txt").write_text("no image")
    assert main([str(source), "-o", str(output), "--workers", "1"]) == 0
    for name in ("0/deep.png", "1/inverted.png"):
        image = Image.open(output / name)
        assert image.mode.startswith("I;16")
        assert (np.asarray(image) == np.round(ramp / 4095 * 65535)).all()
    assert sorted(file.name for file in output.rglob("*") if file.is_file()) == ["deep.png", "inverted.png"]


def test_what_cannot_be_converted_is_reported_and_the_rest_is_done(tmp_path: Path) -> None:
    source, output = tmp_path / "dicom", tmp_path / "png"
    source.mkdir()
    write_radiograph(source / "good.dcm", np.zeros((4, 4)))
    write_radiograph(source / "scan.dcm", np.zeros((4, 4)), bits=12, modality="CT")
    (source / "broken.dcm").write_bytes((source / "good.dcm").read_bytes()[:200])
    failed = convert_folder(source, output, 1, Console(quiet=True))
    assert [sentence.split(":")[0].rsplit("/", 1)[1] for sentence in failed] == ["broken.dcm", "scan.dcm"]
    assert [file.name for file in output.iterdir()] == ["good.png"]
    assert pydicom.dcmread(source / "scan.dcm").Modality == "CT"


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_dicom_is_refused(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=missing):
        convert_folder(tmp_path / missing, tmp_path / "png", 1, Console(quiet=True))
