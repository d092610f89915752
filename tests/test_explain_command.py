"""tools/explain.py: images, folders and DICOM series in, a folder of results and a table out."""

import csv
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from images_to_explain import spot, write_dicom, write_text_as_png
from PIL import Image as Pil
from untrained_run import untrained_run

from cfxai.cli.explain import explain_command
from cfxai.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CT volumes in HU, with a field of view in mm."""
    return untrained_run(tmp_path_factory.mktemp("volumes"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "images"
    (inside / "deeper").mkdir(parents=True)
    Pil.fromarray(spot(40, 30, slice(4, 20), slice(4, 20))).save(inside / "a.png")
    Pil.fromarray(spot(20, 20, slice(4, 9), slice(4, 9))).convert("RGB").save(inside / "deeper/a.jpg")
    write_text_as_png(inside)
    return inside


def test_the_command(volumes: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = ["-cp", str(volumes), str(folder), "--out", str(out), "-cft", "0.01", "-at", "gradient"]
    assert explain_command(words) == 3
    with open(out / "explanations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.png", "x.png", "a.jpg"]
    assert [bool(row["problem"]) for row in rows] == [False, True, False]
    for row in (rows[0], rows[2]):
        for when in ("before", "after"):
            assert sum(float(row[f"p_{name}_{when}"]) for name in ("normal", "abnormal")) == pytest.approx(1, abs=1e-5)
        assert row["threshold"] == "0.01"
    names = {path.name for path in out.iterdir()}
    kinds = ("counterfactual", "difference", "mask", "gradient", "panel")
    assert names == {*(f"{name}-{kind}.png" for name in ("images_a", "deeper_a") for kind in kinds),
                     "explanations.csv", "log.txt"}  # fmt: skip
    assert "x.png: cannot be read" in (out / "log.txt").read_text()


def test_an_earlier_result_is_kept(volumes: Path, folder: Path) -> None:
    for name in ("explanations", "explanations-1"):
        assert explain_command(["-cp", str(volumes), str(folder / "a.png")]) == 0
        assert (volumes / name / "explanations.csv").is_file()
    with pytest.raises(ConfigError, match="is not an empty folder"):
        explain_command(["-cp", str(volumes), str(folder / "a.png"), "-o", str(volumes / "explanations")])


def test_a_folder_of_dicom_slices_is_one_volume(volumes: Path, tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for number in range(3):
        path = write_dicom(series / f"{number}.dcm", np.full((40, 40), 10 * number))
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.ImageOrientationPatient = "1.2.3", [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [0, 0, 5 * number]
        dataset.save_as(path)
    assert explain_command(["-cp", str(volumes), str(tmp_path / "series"), "-o", str(tmp_path / "out")]) == 0
    assert nib.load(tmp_path / "out/series-mask.nii.gz").shape == (40, 40, 3)


def test_folders_without_images_or_rights(volumes: Path, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no images that can be read"):
        explain_command(["-cp", str(volumes), str(tmp_path / "empty")])
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path) == folder / "deeper":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"deeper: cannot be read \(Permission denied\)"):
        explain_command(["-cp", str(volumes), str(folder / "deeper")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name a run"),
        ("-cp RUN", "name images"),
        ("-cp RUN x.png -at gradcam", "no such attributor; did you mean grad_cam"),
        ("-cp RUN x.png -cft 2", "-cft 2.0: must be between 0 and 1"),
        ("-cp RUN x.png --outt y", "no such flag"),
    ],
)
def test_a_wrong_command_is_one_sentence(volumes: Path, words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        explain_command(words.replace("RUN", str(volumes)).split())
