"""The spine phantom: what it promises about heights, grades, masks, healthy counterparts, anatomy and files."""

import csv
import hashlib
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation

from cfxai.data import make_phantom
from cfxai.data.dataset import Data
from cfxai.data.intensity import Window
from cfxai.data.spine.column import Body, Column
from cfxai.data.spine.deformity import KINDS, LINES, NORMAL_LOSS, Deformity, genant_grade
from cfxai.data.spine.phantom import SpinePhantom
from cfxai.data.spine.scan import VertebraScan
from cfxai.errors import ConfigError

PATIENTS = range(8)
COLUMN = Column((0.0, 0.0, 0.0), half_width=30.0, half_depth=30.0, height=27.0, gap=9.0, waist=0.0)


@cache
def scan(patient: int, fraction: float = 1.0, size: int = 32, noise: float = 0.0) -> VertebraScan:
    return SpinePhantom(size=size, fracture_fraction=fraction, noise=noise).scan(patient)


def height(body: Body, v: float) -> float:
    """Measured along the axis through the surface, `v` half depths before the centre; mm."""
    z = np.linspace(-20, 20, 4001, dtype=np.float32)
    points = np.stack([np.zeros_like(z), np.full_like(z, v * body.column.half_depth), z])[..., None, None]
    return float((body.distance(points) < 0).sum() * (z[1] - z[0]))


@pytest.mark.parametrize(("loss", "grade"), [(0, 0), (0.199, 0), (0.2, 1), (0.249, 1), (0.25, 2), (0.4, 3), (0.6, 3)])
def test_genants_grades(loss: float, grade: int) -> None:
    assert genant_grade(loss) == grade


@settings(max_examples=30)
@given(st.sampled_from([*KINDS]), st.floats(0, 0.6), st.floats(0, 1), st.sampled_from([*KINDS]), st.floats(0, 0.12))
def test_the_loss_is_that_of_the_heights_of_the_surface(
    kind: str, loss: float, upper: float, other: str, small: float
) -> None:
    deformities = (Deformity(kind, loss, upper), Deformity(other, small, 0.7))
    whole, lacking = (Body(COLUMN, 0, 1.5, 0.05, which) for which in ((), deformities))
    ratios = [1 - height(lacking, v) / height(whole, v) for v in LINES]
    assert lacking.height_loss == pytest.approx(max(ratios), abs=2e-3)
    assert whole.height_loss == 0
    assert lacking.height_loss >= max(loss, small) - 1e-6


def test_each_kind_loses_height_where_its_name_says() -> None:
    front, middle, back = np.array([Deformity(kind, 0.5, 0.5).at(np.zeros(3), np.array(LINES)) for kind in KINDS]).T
    wedge, biconcave, crush = range(3)
    assert front[wedge] == 0.5 > middle[wedge] > back[wedge] == 0
    assert middle[biconcave] == 0.5
    assert max(front[biconcave], back[biconcave]) < 0.05
    assert min(front[crush], middle[crush], back[crush]) > 0.4


def test_bodies_and_discs_alternate_along_the_column() -> None:
    z = np.linspace(-40, 40, 801, dtype=np.float32)
    points = np.stack([0 * z, 0 * z, z])[..., None, None]
    inside = np.any([Body(COLUMN, level, 0.0, 0.0).distance(points)[:, 0, 0] < 0 for level in (-1, 0, 1)], 0)
    edges = z[1:][np.diff(inside.astype(int)) != 0]
    np.testing.assert_allclose(edges, [-22.5, -13.5, 13.5, 22.5], atol=0.15)


def test_a_scan_has_the_tissues_of_a_spine_in_their_places() -> None:
    for patient in range(2):
        phantom = SpinePhantom(size=64, fracture_fraction=0.0, noise=0.0)
        x, y, z = phantom.grid.points
        hu = scan(patient, 0.0, 64).image
        centre = np.hypot(x, y - 11) < 6
        body = hu[centre & (np.abs(z) < 7)]
        assert 85 < np.median(body) < 260, "spongy bone"
        canal = hu[(np.hypot(x, y + 13.5) < 4) & (np.abs(z) < 4)]
        assert -20 < np.median(canal) < 50, "fluid around the cord"
        compact = hu > 350
        assert (compact & (np.abs(z) < 20) & (y > -8)).any(), "the body's shell"
        assert (compact & (y < -20)).sum() > 100, "posterior elements behind the canal"
        psoas = hu[(np.abs(np.abs(x) - 33) < 3) & (np.abs(y - 6) < 4)]
        assert 20 < np.median(psoas) < 90


def test_image_and_healthy_differ_where_height_was_lost() -> None:
    for patient in PATIENTS:
        shot = scan(patient, 1.0, 48)
        lost, difference = shot.mask > 0, np.abs(shot.image.astype(int) - shot.healthy)
        assert shot.healthy[lost].mean() > shot.image[lost].mean() + 40, "bone gives way to disc"
        assert (difference[lost] > 20).mean() > 0.85
        rim = binary_dilation(lost, np.ones((3, 3, 3)), iterations=2)
        assert difference[rim].sum() > 0.8 * difference.sum(), "but for what is thinner than a voxel"


def test_masks_are_exact_at_any_size() -> None:
    for patient in PATIENTS[:2]:
        fine, coarse = (scan(patient, 1.0, size) for size in (72, 24))
        assert fine.height_loss == coarse.height_loss
        np.testing.assert_array_equal(coarse.mask, fine.mask[1::3, 1::3, 1::3])


@pytest.mark.parametrize("patient", range(3))
def test_a_fracture_changes_nothing_else(patient: int) -> None:
    sick, well = scan(patient, 1.0, noise=20.0), scan(patient, 0.0, noise=20.0)
    np.testing.assert_array_equal(sick.healthy, well.image)
    np.testing.assert_array_equal(well.healthy, well.image)
    assert not well.mask.any()
    assert (well.grade, well.kind) == (0, "")
    assert 0 <= well.height_loss <= NORMAL_LOSS


def test_every_fracture_has_a_grade_and_a_mask_and_all_occur() -> None:
    shots = [scan(patient) for patient in range(20)]
    assert {shot.grade for shot in shots} == {1, 2, 3}
    assert {shot.kind for shot in shots} == set(KINDS)
    assert all(shot.mask.any() and shot.grade == genant_grade(shot.height_loss) for shot in shots)
    lost = pd.Series([shot.mask.sum() for shot in shots]).groupby([shot.grade for shot in shots]).mean()
    assert lost[1] < lost[2] < lost[3]


def test_noise_has_the_standard_deviation_asked_for() -> None:
    added = scan(0, 0.0, 48, 20.0).image.astype(int) - scan(0, 0.0, 48, 0.0).image
    assert added.std() == pytest.approx(20, rel=0.05)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SpinePhantom(patients=10, size=24).manifest(tmp_path_factory.mktemp("cache"))


def test_the_manifest_tells_the_truth_about_the_files(written: Path) -> None:
    with written.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows].count("train") == 6
    for row in rows:
        image, mask, healthy = (nibabel.load(written.parent / row[name]) for name in ("image", "mask", "healthy"))
        assert row["sha256"] == hashlib.sha256((written.parent / row["image"]).read_bytes()).hexdigest()
        assert "".join(nibabel.aff2axcodes(image.affine)) == "RAS"
        assert image.header.get_zooms() == (3.0, 3.0, 3.0)
        np.testing.assert_array_equal(image.affine, mask.affine)
        assert healthy.shape == (24, 24, 24)
        assert int(row["grade"]) == genant_grade(float(row["height_loss"]))
        assert (row["label"] == "1") == (row["grade"] != "0") == (row["kind"] != "") == (row["image"] != row["healthy"])
        assert (row["label"] == "1") == np.asarray(mask.dataobj).any()


def test_volumes_and_mid_sagittal_slices_have_the_grade_of_the_vertebra(written: Path, tmp_path: Path) -> None:
    grades = pd.read_csv(written).set_index("patient")["grade"]
    settings = {"intensity": Window(-200.0, 700.0), "cache": tmp_path, "size": 24}
    whole = Data(written, plane="volume", **settings).split("train")
    assert whole.images.shape == (6, 1, 24, 24, 24)
    assert whole.grades.tolist() == [grades[patient] for patient in whole.groups]
    slices = Data(written, plane="sagittal", slice_range=(0.45, 0.55), **settings).split("train")
    assert slices.images.shape == (12, 1, 24, 24)
    for grade, label, mask, patient in zip(slices.grades, slices.labels, slices.masks, slices.groups, strict=True):
        assert grade == (grades[patient] if label else 0)
        assert label or not mask.any()
    assert (slices.grades > 0).sum() >= 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"patients": 0}, r"phantom\.patients"),
        ({"size": 20}, r"phantom\.size"),
        ({"noise": -1.0}, r"phantom\.noise"),
        ({"fracture_fraction": 1.2}, r"phantom\.fracture_fraction"),
    ],
)
def test_impossible_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpinePhantom(**setting)


def test_the_command_writes_a_folder_with_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", "spine", "-o", str(tmp_path / "spine"), "--patients", "3", "--size", "24"]
    assert make_phantom.main([*arguments, "--grades", "3"]) == 2
    assert "--grades is no option of --kind spine" in capsys.readouterr().err
    assert make_phantom.main(arguments) == 0
    assert Image.open(tmp_path / "spine" / "preview.png").size == (3 * 192, 3 * 192)
    said = capsys.readouterr().out
    assert "with a fracture" in said
    assert f"space=volumes data=spine_phantom data.manifest={tmp_path / 'spine' / 'manifest.csv'}" in said
