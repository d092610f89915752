"""An image that cannot be explained is named, with the reason, in one sentence."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from images_to_explain import write_dicom, write_text_as_png
from PIL import Image as Pil
from untrained_run import legible, untrained_run

from cfxai.errors import DataError
from cfxai.explaining import bounds
from cfxai.loaded import LoadedRun


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return legible(untrained_run(tmp_path_factory.mktemp("pictures"), pictures=True))


def one_pixel(folder: Path) -> Path:
    Pil.new("L", (1, 1)).save(folder / "x.png")
    return folder / "x.png"


def cut_dicom(folder: Path) -> Path:
    path = write_dicom(folder / "x.dcm", np.zeros((32, 32)))
    path.write_bytes(path.read_bytes()[:-900])
    return path


def bomb(folder: Path) -> Path:
    Pil.new("1", (30000, 30000)).save(folder / "x.png")
    return folder / "x.png"


def lesser_bomb(folder: Path) -> Path:
    """Over the size at which Pillow warns, under the one that it refuses."""
    Pil.new("1", (10000, 10000)).save(folder / "x.png")
    return folder / "x.png"


def gzip_bomb(folder: Path) -> Path:
    (folder / "x.nii.gz").write_bytes(gzip.compress(bytes(2_000_000)))
    return folder / "x.nii.gz"


def huge_dicom(folder: Path) -> Path:
    path = write_dicom(folder / "x.dcm", np.zeros((32, 32)))
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 60000
    dataset.save_as(path)
    return path


def missing(folder: Path) -> Path:
    return folder / "nowhere.png"


def other_kind(folder: Path) -> Path:
    (folder / "x.docx").write_text("a report")
    return folder / "x.docx"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (one_pixel, "has 1 x 1 pixels, too few to explain"),
        (write_text_as_png, "damaged or not what its name says"),
        (cut_dicom, "copy it again"),
        (bomb, "crop or shrink it"),
        (lesser_bomb, "has 10000 x 10000 pixels"),
        (gzip_bomb, "bytes unpacked"),
        (huge_dicom, "has 3,600,000,000 pixels"),
        (missing, "no such file"),
        (other_kind, "unknown kind of image"),
    ],
)
def test_bad_input_is_one_sentence(
    pictures: LoadedRun, tmp_path: Path, make: Callable[[Path], Path], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_BYTES", 1_000_000)
    path = make(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        pictures.explain(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_messages_call_an_array_the_image(pictures: LoadedRun) -> None:
    with pytest.raises(DataError, match=r"^the image: has 4 x 4 pixels"):
        pictures.explain(np.zeros((4, 4), np.uint8))
