"""One command makes a manifest of the usual layouts, and what it makes can be used."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cfxai.data.dataset import Data
from cfxai.data.intensity import FullRange, Window
from cfxai.data.make_manifest import main
from cfxai.data.manifest import read_manifest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def volume(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, dtype=np.uint8), np.eye(4)), path)


def made(source: Path, *options: str) -> pd.DataFrame:
    """The manifest of `source`, written to another folder."""
    output = source.parent / "out/m.csv"
    assert main([str(source), "-o", str(output), *options]) == 0
    read_manifest(output)  # every file is found from the manifest's own folder, with the right sum
    return pd.read_csv(output, dtype=str)


def test_class_folders_with_normal_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(["ABNORMAL/p1-a.png", "ABNORMAL/p2-a.png", "Normal/p3-a.png"]):
        picture(tmp_path / "set" / name, number)
    table = made(tmp_path / "set")
    assert table["label"].tolist() == ["1", "1", "0"]
    assert "patient" not in table
    printed = capsys.readouterr().out
    assert "0 (Normal): 1, 1 (ABNORMAL): 2" in printed
    assert "no patient column" in printed
    assert made(tmp_path / "set", "--patient", r"p\d")["patient"].tolist() == ["p1", "p2", "p3"]


def test_split_folders_become_the_split_column(tmp_path: Path) -> None:
    for number, name in enumerate(["train/0/a.png", "train/1/b.png", "validation/0/c.png", "test/1/d.png"]):
        picture(tmp_path / "set" / name, number)
    table = made(tmp_path / "set").sort_values("image")
    assert table["split"].tolist() == ["test", "train", "train", "val"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("images/{}.nii.gz", "masks/{}.nii.gz"),
        ("{}.nii.gz", "{}_mask.nii.gz"),
        ("{}_ct.nii", "{}-seg.nii"),
        ("{}/imaging.nii.gz", "{}/segmentation.nii.gz"),
        ("{}/ct.nii.gz", "{}/segmentations.nii.gz"),
        ("{}/ct.nii.gz", "{}/ml.nii.gz"),
    ],
)
def test_volumes_find_their_masks(tmp_path: Path, image: str, mask: str) -> None:
    for number in range(3):
        volume(tmp_path / "set" / image.format(f"case{number}"), number)
        volume(tmp_path / "set" / mask.format(f"case{number}"), 10 + number)
    table = made(tmp_path / "set")
    assert table["patient"].tolist() == ["case0", "case1", "case2"]
    assert "label" not in table
    for number, row in table.iterrows():
        assert mask.format(f"case{number}") in row["mask"]
        assert image.format(f"case{number}") in row["image"]


@pytest.fixture
def organ_files(tmp_path: Path) -> Path:
    """TotalSegmentator's layout: three cases, of which one lacks the file of an organ."""
    for number in range(3):
        case = tmp_path / f"set/s{number:04d}"
        for name in ("spleen", "kidney_left", "kidney_right"):
            if (number, name) != (2, "kidney_left"):
                volume(case / f"segmentations/{name}.nii.gz", 0)
        organ = np.zeros((4, 4, 4), dtype=np.uint8)
        organ[number] = 1
        nib.save(nib.Nifti1Image(organ, np.eye(4)), case / "segmentations/kidney_right.nii.gz")
        volume(case / "ct.nii.gz", number)
    return tmp_path / "set"


def test_a_file_per_organ_becomes_one_label_map(organ_files: Path) -> None:
    table = made(organ_files)
    assert table["patient"].tolist() == ["s0000", "s0001", "s0002"]
    assert "split" not in table
    for number, row in table.iterrows():
        labels = np.asarray(nib.load(organ_files.parent / "out" / row["mask"]).dataobj)
        assert (labels[number] == 2).all()
        assert labels.sum() == 2 * 16
    other = made(organ_files, "--organs", "spleen=1,kidney_right=9")
    assert np.asarray(nib.load(organ_files.parent / "out" / other["mask"][0]).dataobj).max() == 9


def test_the_table_beside_the_cases_gives_the_splits(organ_files: Path) -> None:
    lines = ["image_id;age;split", "s0000;50;train", "s0001;51;val", "s0002;52;test", "s0009;53;test"]
    (organ_files / "meta.csv").write_text("\n".join(lines))
    assert made(organ_files)["split"].tolist() == ["train", "val", "test"]
    (organ_files / "meta.csv").write_text("\n".join(lines[:3]))
    assert "split" not in made(organ_files)


@pytest.mark.parametrize(
    ("organs", "message"),
    [("kidny_left=1", "did you mean 'kidney_left'"), ("spleen", "labels from 1 to 255"), ("spleen=0", "from 1 to 255")],
)
def test_organs_that_cannot_be_read_are_named(
    organ_files: Path, organs: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(organ_files), "-o", str(organ_files.parent / "m.csv"), "--organs", organs]) == 2
    assert message in capfd.readouterr().err


def test_a_case_without_its_scan_is_named(organ_files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (organ_files / "s0001/ct.nii.gz").unlink()
    assert main([str(organ_files), "-o", str(organ_files.parent / "m.csv")]) == 3
    assert "s0001: has segmentations but none of ct.nii.gz" in capfd.readouterr().err


def test_pictures_with_masks_are_not_taken_for_patients(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "set/images" / f"{number}.png", number)
        picture(tmp_path / "set/masks" / f"{number}.png", 10 + number)
    assert "patient" not in made(tmp_path / "set")


def test_stack_keeps_its_columns(tmp_path: Path) -> None:
    arrays = {"label": [0, 1], "group": ["a", "b"], "split": ["train", "val"], "grade": [0, 3]}
    np.savez(tmp_path / "s.npz", images=np.arange(32, dtype=np.uint8).reshape(2, 4, 4), **arrays)
    table = made(tmp_path / "s.npz")
    assert table[["label", "patient", "split", "grade"]].to_numpy().tolist() == [
        ["0", "a", "train", "0"],
        ["1", "b", "val", "3"],
    ]


def test_what_cannot_be_told_is_said_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "set/a.png", 1)
    for arguments, message in [([tmp_path / "none"], "no such folder"), ([tmp_path / "set"], "in no class folder")]:
        assert main([str(argument) for argument in arguments]) == 3
        assert message in capfd.readouterr().err


def test_help_shows_an_example_and_imports_nothing_slow() -> None:
    code = (
        "import sys; from cfxai.data.make_manifest import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "python tools/train.py" in shown
    assert not {"torch", "monai", "pandas", "nibabel"} & set(shown.split())


@pytest.mark.skipif(not SHARED.is_dir(), reason="real files are not here")
def test_real_stack_and_volume(tmp_path: Path) -> None:
    assert main([str(SHARED / "brain_flair_128.npz"), "-o", str(tmp_path / "brain.csv")]) == 0
    brain = Data(tmp_path / "brain.csv", intensity=FullRange(), size=64, cache=tmp_path / "cache")
    assert len(brain.split("test")) == 171
    assert brain.judged == "val"
    files = SHARED / "files/nifti_totalseg"
    row = {"image": files / "example_ct_sm.nii.gz", "mask": files / "example_seg.nii.gz", "patient": "p"}
    pd.DataFrame([row | {"split": split} for split in ("train", "val", "test")]).to_csv(
        tmp_path / "ct.csv", index=False
    )
    ct = Data(
        tmp_path / "ct.csv", intensity=Window(-160.0, 240.0), size=128, allow_leakage=True, cache=tmp_path / "cache"
    )
    (written,) = ct.export_masks("test", ct.split("test").masks, tmp_path / "out")
    original, exported = nib.load(row["mask"]), nib.load(written)
    np.testing.assert_array_equal(exported.affine, nib.load(row["image"]).affine)
    first, second = (np.asarray(image.dataobj) > 0 for image in (original, exported))
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.98
