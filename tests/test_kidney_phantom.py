"""The phantom around one kidney: which one, where it lies, and that a cut shows what the whole abdomen has there."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cfxai.data import make_phantom
from cfxai.data.abdomen.cut import cut_around
from cfxai.data.abdomen.kidneys import place_kidney
from cfxai.data.abdomen.scan import TUMOUR
from cfxai.data.ct.canvas import Grid
from cfxai.data.phantom import Phantom
from cfxai.errors import ConfigError

COARSE = {"size": 48, "spacing": 8.0, "slices": 8, "slice_thickness": 15.0}
KIDNEY = {**COARSE, "kidney": 96.0}
SEED = 0  # has patients with tumours of one kidney and of both
SIDES = {"right": 1, "left": -1}
FILES = ("image", "mask", "healthy")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same patients around a kidney and whole: one without tumour, the others with."""
    folder = tmp_path_factory.mktemp("phantoms")
    for name, settings in (("cut", KIDNEY), ("whole", COARSE)):
        Phantom(patients=5, tumour_fraction=0.8, seed=SEED, **settings).write(folder / name)
    return folder / "cut", folder / "whole"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def tumour_volumes(folder: Path, row: dict[str, str]) -> dict[str, int]:
    """Voxels of tumour on either side of the midline."""
    mask = nibabel.load(folder / row["mask"])
    x = mask.affine[0, 3] + 8.0 * np.nonzero(np.asarray(mask.dataobj) == TUMOUR)[0]
    return {"right": int((x > 0).sum()), "left": int((x < 0).sum())}


def test_every_voxel_of_a_cut_is_the_voxel_of_the_whole_volume_at_the_same_place(folders: tuple[Path, Path]) -> None:
    cut, whole = folders
    for small, large in zip(rows(cut), rows(whole), strict=True):
        for name in FILES:
            part, all_of_it = nibabel.load(cut / small[name]), nibabel.load(whole / large[name])
            assert part.shape == (12, 12, 8)
            indices = np.indices(part.shape).reshape(3, -1)
            places = nibabel.affines.apply_affine(part.affine, indices.T)
            there = nibabel.affines.apply_affine(np.linalg.inv(all_of_it.affine), places)
            np.testing.assert_allclose(there, np.rint(there), atol=1e-4)
            x, y, z = np.rint(there).astype(int).T
            np.testing.assert_array_equal(voxels(cut / small[name]).ravel(), voxels(whole / large[name])[x, y, z])


def test_the_kidney_is_in_the_middle_on_the_side_that_the_manifest_says(folders: tuple[Path, Path]) -> None:
    cut, _ = folders
    for row in rows(cut):
        affine = nibabel.load(cut / row["mask"]).affine
        middle = nibabel.affines.apply_affine(affine, [5.5, 5.5, 3.5])
        assert (row["side"] == "right") == (middle[0] > 0)
        organ = np.argwhere(voxels(cut / row["mask"]) > 0)
        assert np.abs(organ.mean(0)[:2] - 5.5).max() < 2, "within two voxels, whatever bulges out of it"


def test_the_manifest_tells_what_the_cut_shows(folders: tuple[Path, Path]) -> None:
    cut, whole = folders
    assert {row["label"] for row in rows(cut)} == {"0", "1"}
    for small, large in zip(rows(cut), rows(whole), strict=True):
        shown = tumour_volumes(cut, small)
        assert (small["label"] == "1") == (small["severity"] != "0") == (shown[small["side"]] > 0)
        assert (small["label"], small["severity"], small["split"]) == (
            large["label"],
            large["severity"],
            large["split"],
        )
        assert (small["healthy"] == small["image"]) == (small["label"] == "0")
    assert "side" not in rows(whole)[0]


def test_the_kidney_is_that_of_the_tumour(folders: tuple[Path, Path]) -> None:
    """With tumours on one side only it is that side; with tumours on both it is the side of the worst."""
    cut, whole = folders
    counts = {0: 0, 1: 0, 2: 0}
    for small, large in zip(rows(cut), rows(whole), strict=True):
        sides = {side for side, volume in tumour_volumes(whole, large).items() if volume}
        assert len(sides) != 1 or sides == {small["side"]}
        assert small["severity"] == large["severity"], "that of the worst"
        counts[len(sides)] += 1
    assert all(counts.values())


def test_without_its_tumour_a_patient_has_the_same_cut_and_anatomy(folders: tuple[Path, Path]) -> None:
    """The lesion moves nothing: where both scans are of the same kidney, they are of the same place."""
    cut, _ = folders
    phantom = Phantom(tumour_fraction=0.0, seed=SEED, **KIDNEY)
    well = [phantom.scan(patient) for patient in range(5)]
    assert {scan.kidney.side for scan in well} == {1, -1}, "either kidney"
    same = [(row, scan) for row, scan in zip(rows(cut), well, strict=True) if SIDES[row["side"]] == scan.kidney.side]
    assert sum(row["label"] == "1" for row, _ in same) >= 1
    for row, scan in same:
        np.testing.assert_array_equal(nibabel.load(cut / row["image"]).affine, scan.grid.affine)
        np.testing.assert_array_equal(voxels(cut / row["healthy"]), scan.image)


def test_a_tumour_outside_the_cut_is_not_told() -> None:
    """Squares of one voxel: most miss the tumour, and label, severity and mask agree all the same."""
    phantom = Phantom(**COARSE, kidney=8.0, tumour_fraction=1.0)
    scans = [phantom.scan(patient) for patient in range(3)]
    for scan in scans:
        assert scan.labels.shape == (1, 1, 8)
        assert (scan.severity > 0) == (scan.labels == TUMOUR).any()
    assert {scan.severity > 0 for scan in scans} == {False, True}


@given(
    seed=st.integers(0, 2**32), side=st.sampled_from([-1, 1]), size=st.integers(1, 80), spacing=st.floats(0.5, 12.0),
    share=st.floats(0.0, 1.0),
)  # fmt: skip
def test_a_cut_is_the_one_nearest_to_the_kidney_that_fits(
    seed: int, side: int, size: int, spacing: float, share: float
) -> None:
    grid, cut = Grid(size, spacing, 3, 5.0), max(1, round(share * size))
    kidney = place_kidney(side, np.random.default_rng(seed))
    placed = cut_around(kidney, grid, cut)
    assert placed.shape == grid.points[0][placed.window].shape == (cut, cut, 3)
    np.testing.assert_allclose(placed.points, grid.points[:, *placed.window], atol=1e-3)
    for axis in range(2):
        starts = np.arange(size - cut + 1)
        middles = grid.affine[axis, 3] + spacing * (starts + (cut - 1) / 2)
        offsets = np.abs(middles - kidney.solid.centre[axis])
        assert offsets[placed.corner[axis]] <= offsets.min() + 1e-6 * spacing


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kidney": 400.0}, r"phantom\.kidney is 400\.0 mm"),
        ({"kidney": 1.0}, r"phantom\.kidney is 1\.0 mm"),
        ({"kidney": -96.0}, r"phantom\.kidney is -96\.0 mm"),
        ({"kidney": 96.0, "shortcut": 0.2}, r"phantom\.kidney and phantom\.shortcut"),
    ],
)
def test_impossible_cuts_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Phantom(**setting)


def test_graded_cuts_have_the_grade_of_their_tumour(tmp_path: Path) -> None:
    table = rows(Phantom(patients=2, grades=5, **KIDNEY).write(tmp_path / "graded").parent)
    assert all(row["grade"] == row["severity"] for row in table)
    assert all((row["grade"] != "0") == (row["label"] == "1") for row in table)


def test_the_command_writes_kidneys_and_names_their_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kidneys"
    line = f"-o {folder} --patients 1 --size 48 --spacing 8 --slices 4 --kidney 96"
    assert make_phantom.main(line.split()) == 0
    assert voxels(folder / rows(folder)[0]["image"]).shape == (12, 12, 4)
    assert Image.open(folder / "preview.png").size == (6 * 24, 24)
    assert f"data=phantom_kidney data.manifest={folder / 'manifest.csv'}" in capsys.readouterr().out
