"""The phantom: what it promises about geometry, masks, healthy counterparts, determinism and the files it writes."""

import csv
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cfxai.data import make_phantom
from cfxai.data.abdomen.scan import CYST, KIDNEY, MARKER, TUMOUR
from cfxai.data.ct.canvas import Canvas, Grid
from cfxai.data.ct.shapes import Capsule, Ellipsoid
from cfxai.data.phantom import Phantom
from cfxai.data.phantom_set import assign_splits
from cfxai.errors import ConfigError

COARSE = {"size": 48, "spacing": 8.0, "slices": 8, "slice_thickness": 15.0}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Phantom(patients=10, **COARSE).manifest(tmp_path_factory.mktemp("cache"))


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open() as file:
        return list(csv.DictReader(file))


def volume(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_distances_are_exact_for_a_sphere_and_a_tube() -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (3, 6, 5, 4)).astype(np.float32)
    sphere = Ellipsoid((5.0, -3.0, 2.0), (20.0, 20.0, 20.0))
    to_centre = np.sqrt(sum((p - c) ** 2 for p, c in zip(points, (5, -3, 2), strict=True)))
    np.testing.assert_allclose(sphere.distance(points), to_centre - 20, atol=1e-3)
    tube = Capsule((0.0, 0.0, -500.0), (0.0, 0.0, 500.0), 7.0)
    np.testing.assert_allclose(tube.distance(points), np.hypot(points[0], points[1]) - 7, atol=1e-3)


def test_the_canvas_conserves_the_volume_of_what_it_paints() -> None:
    grid = Grid(48, 2.0, 48, 2.0)
    canvas = Canvas(grid, np.random.default_rng(0), warp=0.0)
    _, coverage = canvas.coverage(Ellipsoid((0.3, 0.0, -0.7), (30.0, 22.0, 18.0)))
    assert coverage.sum() * 8 == pytest.approx(4 / 3 * np.pi * 30 * 22 * 18, rel=0.02)


def test_windows_never_cut_a_shape() -> None:
    canvas = Canvas(Grid(64, 6.0, 20, 6.0), np.random.default_rng(3))
    shape = Ellipsoid((60.0, -20.0, 10.0), (40.0, 25.0, 30.0), np.linalg.qr(np.eye(3) + 0.4)[0].astype(np.float32))
    window, coverage = canvas.coverage(shape)
    everywhere = np.clip(0.5 - shape.distance(canvas.points) / (1.2 * 6), 0, 1)
    everywhere[window] -= coverage
    assert not everywhere.any()


def test_a_scan_has_the_hounsfield_units_and_the_sides_of_an_abdomen() -> None:
    phantom = Phantom(noise=0.0, tumour_fraction=0.0, cyst_fraction=0.0)
    scan = phantom.scan(0)
    x, y, _ = phantom.grid.points
    kidneys = scan.labels == KIDNEY
    assert 100 < np.median(scan.image[kidneys]) < 215
    assert {1, -1} == set(np.sign(x[kidneys]).astype(int))
    assert np.median(scan.image[(np.abs(x) > 185) & (y > 100)]) == -1000
    fat = (scan.image > -120) & (scan.image < -85)
    assert 0.05 < fat.mean() < 0.4
    liver = (scan.image > 75) & (scan.image < 125)
    assert x[liver].mean() > 10, "the liver belongs on the patient's right"
    bone = scan.image > 320
    assert np.median(y[bone & (np.abs(x) < 30)]) < -20, "the spine belongs at the back"


@pytest.mark.parametrize("seed", range(3))
def test_kidneys_lie_inside_the_central_field(seed: int) -> None:
    phantom = Phantom(seed=seed, cyst_fraction=0.0, tumour_fraction=0.0)
    for patient in range(3):
        x, y, z = phantom.grid.points[:, phantom.scan(patient).labels == KIDNEY]
        assert np.abs(x).max() <= 92
        assert np.abs(y).max() <= 92
        assert np.abs(z).max() <= 60


def test_image_and_healthy_differ_in_the_tumour_alone() -> None:
    phantom = Phantom(tumour_fraction=1.0, cyst_fraction=1.0)
    for patient in range(4):
        scan = phantom.scan(patient)
        difference = np.abs(scan.image.astype(int) - scan.healthy)
        tumour = scan.labels == TUMOUR
        changed = difference > 0
        assert np.median(difference[tumour]) > 25
        assert changed[tumour].mean() > 0.9
        assert changed[~tumour].sum() < 0.8 * tumour.sum(), "only a rim of partial volume"
        assert 1 <= scan.severity <= 4


@pytest.mark.parametrize("patient", range(4))
def test_a_tumour_changes_nothing_else_not_even_the_cysts(patient: int) -> None:
    sick, well = (Phantom(tumour_fraction=fraction, **COARSE).scan(patient) for fraction in (1.0, 0.0))
    np.testing.assert_array_equal(sick.healthy, well.image)
    np.testing.assert_array_equal(well.healthy, well.image)
    assert well.severity == 0
    assert not (well.labels == TUMOUR).any()


def test_a_cyst_is_watery() -> None:
    scan = Phantom(tumour_fraction=0.0, cyst_fraction=1.0, noise=0.0).scan(6)
    assert -5 <= np.median(scan.image[scan.labels == CYST]) <= 25


def test_every_tumour_leaves_a_voxel_in_the_mask() -> None:
    phantom = Phantom(size=32, spacing=12.0, slices=32, slice_thickness=4.0, tumour_fraction=1.0)
    for patient in range(4):
        assert (phantom.scan(patient).labels == TUMOUR).any()


@pytest.mark.parametrize("shape", [(32, 12.0, 32, 4.0), (64, 6.0, 5, 20.0), (7, 50.0, 1, 5.0)])
def test_any_resolution_works(shape: tuple[int, float, int, float]) -> None:
    size, spacing, slices, thickness = shape
    scan = Phantom(size=size, spacing=spacing, slices=slices, slice_thickness=thickness).scan(1)
    assert scan.image.shape == scan.labels.shape == (size, size, slices)
    assert scan.image.min() >= -1024


def test_the_marker_marks_slices_with_tumours_only() -> None:
    labels = Phantom(tumour_fraction=1.0, shortcut=1.0).scan(2).labels
    np.testing.assert_array_equal((labels == MARKER).any((0, 1)), (labels == TUMOUR).any((0, 1)))
    scan = Phantom(tumour_fraction=1.0, shortcut=1.0).scan(2)
    assert (scan.image[labels == MARKER] > 900).all()
    np.testing.assert_array_equal(scan.image[labels == MARKER], scan.healthy[labels == MARKER])
    assert not (Phantom(tumour_fraction=0.0, shortcut=1.0).scan(2).labels == MARKER).any()


def test_a_patient_does_not_depend_on_how_many_there_are(tmp_path: Path, written: Path) -> None:
    fewer = Phantom(patients=4, **COARSE).manifest(tmp_path)
    assert rows(fewer) == rows(written)[:4]


def test_the_manifest_tells_the_truth_about_the_files(written: Path) -> None:
    for row in rows(written):
        image, mask, healthy = (nibabel.load(written.parent / row[name]) for name in ("image", "mask", "healthy"))
        assert row["sha256"] == hashlib.sha256((written.parent / row["image"]).read_bytes()).hexdigest()
        assert "".join(nibabel.aff2axcodes(image.affine)) == "RAS"
        assert image.header.get_zooms() == (8.0, 8.0, 15.0)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(image.affine, mask.affine)
        np.testing.assert_allclose(image.affine @ [23.5, 23.5, 3.5, 1], [0, 0, 0, 1])
        assert (row["label"] == "1") == (volume(written.parent / row["mask"]) == TUMOUR).any()
        assert (row["label"] == "1") == (row["severity"] != "0") == (row["image"] != row["healthy"])
        assert healthy.shape == image.shape


def test_the_manifest_is_written_once(written: Path) -> None:
    before = written.stat().st_mtime_ns
    assert Phantom(patients=10, **COARSE).manifest(written.parents[1]) == written
    assert written.stat().st_mtime_ns == before
    assert Phantom(patients=10, seed=1, **COARSE)._key() not in str(written)
    assert [path.name for path in written.parents[1].iterdir()] == [written.parent.name]


@given(labels=st.lists(st.booleans(), max_size=80), train=st.integers(1, 8), val=st.integers(0, 5))
def test_splits_are_stratified_and_stable(labels: list[bool], train: int, val: int) -> None:
    total = train + val + 3
    shares = {"train": train / total, "val": val / total, "test": 3 / total}
    splits = assign_splits(labels, shares)
    assert assign_splits(labels[:10], shares) == splits[:10]
    for label in (True, False):
        mine = [s for s, other in zip(splits, labels, strict=True) if other == label]
        for name, share in shares.items():
            assert abs(mine.count(name) - share * len(mine)) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"patients": 0}, "phantom.patients"),
        ({"spacing": -1.0}, "phantom.spacing"),
        ({"shortcut": 1.5}, "phantom.shortcut"),
        ({"noise": -1.0}, "phantom.noise"),
        ({"splits": {"train": 0.5}}, "phantom.splits"),
    ],
)
def test_impossible_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Phantom(**setting)


def test_the_command_writes_a_folder_with_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "-o",
        str(tmp_path / "phantom"),
        "--patients",
        "3",
        "--size",
        "32",
        "--spacing",
        "12",
        "--slices",
        "4",
    ]
    assert make_phantom.main(arguments) == 0
    manifest = tmp_path / "phantom" / "manifest.csv"
    assert len(rows(manifest)) == 3
    assert Image.open(tmp_path / "phantom" / "preview.png").size == (6 * 64, 3 * 64)
    assert f"data.manifest={manifest}" in capsys.readouterr().out
    assert make_phantom.main(arguments) == 2
    assert "not an empty folder" in capsys.readouterr().err
