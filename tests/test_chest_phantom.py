"""The chest phantom: what it promises about projection, anatomy, masks, healthy counterparts, regions and files."""

import csv
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from cfxai.data import make_phantom
from cfxai.data.chest.distractors import SHARES, draw_distractors
from cfxai.data.chest.exposure import Exposure, expose
from cfxai.data.chest.film import Film, Pose, ellipse
from cfxai.data.chest.phantom import ChestPhantom
from cfxai.data.chest.radiograph import Radiograph
from cfxai.data.chest.thorax import draw_build
from cfxai.data.dataset import Data
from cfxai.data.intensity import FullRange
from cfxai.errors import ConfigError

RIGHT, LEFT, HEART, MEDIASTINUM, ABDOMEN, OUTSIDE = range(1, 7)
PATIENTS = range(20)
GREY = 65535


@cache
def radiograph(patient: int, fraction: float = 0.5, size: int = 64, noise: float = 0.006) -> Radiograph:
    return ChestPhantom(size=size, pneumonia_fraction=fraction, noise=noise).radiograph(patient)


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open() as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ChestPhantom(patients=12, size=48).manifest(tmp_path_factory.mktemp("cache"))


def test_a_filled_outline_covers_its_area_wherever_the_patient_stands() -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    outline = np.stack([70 * np.cos(angle), 40 * np.sin(angle)], 1)
    for pose in (Pose(), Pose((12.0, -7.0), 0.3, 1.1)):
        film = Film(96, pose)
        coverage = film.fill(outline)
        assert coverage.sum() * film.step**2 == pytest.approx(np.pi * 70 * 40 * pose.scale**2, rel=0.03)
        inside = ellipse(film.points, (0.0, 0.0), (70.0, 40.0)) > 0
        assert np.abs(inside - coverage).mean() < 0.012, "positions and what is drawn agree"
        assert film.inside(outline).max() == pytest.approx(40, abs=2)


def test_without_scatter_and_noise_a_radiograph_shows_the_attenuation_linearly() -> None:
    attenuation = np.linspace(1, 5, 64, dtype=np.float32).reshape(8, 8)
    exposure = Exposure(dose=1e12, scatter=0.0, margin=(0.0, 0.0), gamma=1.0, flatten=0.0)
    (grey,) = expose(Film(8, Pose()), [attenuation], exposure, np.random.default_rng(0))
    low, high = np.percentile(attenuation, [3, 98])
    np.testing.assert_allclose(grey, np.clip((attenuation - low) / (high - low), 0, 1), atol=1e-4)


def test_noise_is_that_of_counted_photons() -> None:
    attenuation = np.full((200, 200), 2.0, np.float32)
    attenuation[:, 100:] = 4.0
    exposure = Exposure(dose=1e4, scatter=0.0, margin=(0.5, 0.5), gamma=1.0, flatten=0.0)
    (grey,) = expose(Film(200, Pose()), [attenuation], exposure, np.random.default_rng(0))
    per_unit = (grey[:, 100:].mean() - grey[:, :100].mean()) / 2.0
    for part, expected in ((grey[:, :100], np.exp(2.0) / 1e4), (grey[:, 100:], np.exp(4.0) / 1e4)):
        assert (part.std() / per_unit) ** 2 == pytest.approx(expected, rel=0.05)


def test_a_chest_has_its_parts_in_their_places() -> None:
    areas = []
    for patient in PATIENTS:
        shot = radiograph(patient)
        y, x = np.indices(shot.regions.shape)
        centre = {part: (x[shot.regions == part].mean(), y[shot.regions == part].mean()) for part in range(1, 7)}
        assert centre[RIGHT][0] < centre[HEART][0] < centre[LEFT][0], "the patient's right is on the viewer's left"
        assert centre[HEART][0] > (x[np.isin(shot.regions, (RIGHT, LEFT))].mean()) - 1, "the heart is on the left"
        assert centre[MEDIASTINUM][1] < centre[HEART][1] < centre[ABDOMEN][1]
        for part in (RIGHT, LEFT, HEART):
            count = np.bincount(label(shot.regions == part)[0].ravel())[1:]
            assert count.max() > 0.97 * count.sum(), "one piece"
        grey = {part: np.median(shot.healthy[shot.regions == part]) for part in range(1, 7)}
        assert grey[OUTSIDE] < 0.05 * GREY
        assert max(grey[RIGHT], grey[LEFT]) < 0.8 * min(grey[HEART], grey[ABDOMEN])
        areas.append([(shot.regions == part).sum() for part in (RIGHT, LEFT)])
    right, left = np.array(areas).T
    assert (right > left).mean() > 0.9, "the right lung is the larger one"


def test_hearts_differ_in_size() -> None:
    ratios = []
    for patient in PATIENTS:
        regions = radiograph(patient).regions
        heart = np.flatnonzero((regions == HEART).any(0))
        lungs = np.flatnonzero(np.isin(regions, (RIGHT, LEFT)).any(0))
        ratios.append(np.ptp(heart) / np.ptp(lungs))
    assert min(ratios) > 0.35
    assert max(ratios) < 0.65
    assert np.std(ratios) > 0.03


def test_the_mask_is_where_image_and_healthy_differ() -> None:
    marked = hidden = 0
    for patient in PATIENTS[1::2]:
        shot = radiograph(patient)
        differs, mask = shot.image != shot.healthy, shot.mask > 0
        assert mask.any()
        assert not (differs & ~mask).any()
        marked, hidden = marked + mask.sum(), hidden + (mask & ~differs).sum()
        assert (shot.image.astype(int) >= shot.healthy).all(), "pneumonia only whitens"
        assert np.isin(shot.regions[mask], (RIGHT, LEFT, HEART, MEDIASTINUM)).mean() > 0.95
    assert hidden < 0.01 * marked, "but for pixels that are white already"


def test_opacities_lie_where_the_manifest_says() -> None:
    for patient in PATIENTS[1::2]:
        shot = radiograph(patient)
        assert 1 <= len(shot.opacities) <= 3
        assert 1 <= shot.severity <= 4
        lungs = np.flatnonzero((np.isin(shot.regions, (RIGHT, LEFT))).any(1))
        for opacity in shot.opacities:
            y, _ = np.nonzero(opacity.filled > 0.5 * opacity.filled.max())
            other = {"right": LEFT, "left": RIGHT}[opacity.side]
            assert not (opacity.filled[shot.regions == other] > 0).any()
            height = (y.mean() - lungs[0]) / np.ptp(lungs)
            low, high = {"upper": (0.0, 0.5), "middle": (0.15, 0.75), "lower": (0.4, 1.0)}[opacity.zone]
            assert low <= height <= high


@pytest.mark.parametrize("patient", range(3))
def test_pneumonia_changes_nothing_else(patient: int) -> None:
    sick, well = radiograph(patient, 1.0), radiograph(patient, 0.0)
    np.testing.assert_array_equal(sick.healthy, well.image)
    np.testing.assert_array_equal(well.healthy, well.image)
    np.testing.assert_array_equal(sick.regions, well.regions)
    assert sick.distractors == well.distractors
    assert well.severity == 0
    assert not well.mask.any()


def test_a_patient_is_the_same_person_at_any_size() -> None:
    fine, coarse = (radiograph(5, 1.0, size, 0.0) for size in (192, 64))
    reduced = fine.image.reshape(64, 3, 64, 3).mean((1, 3))
    assert np.corrcoef(reduced.ravel(), coarse.image.ravel())[0, 1] > 0.98
    shares = fine.mask.reshape(64, 3, 64, 3).mean((1, 3))
    assert ((shares > 0.5) == coarse.mask).mean() > 0.98
    assert fine.distractors == coarse.distractors


def test_distractors_have_their_shares_and_both_classes_have_all_of_them() -> None:
    rng = np.random.default_rng(0)
    build = draw_build(rng)
    seen = [draw_distractors(Film(16, Pose()), build, rng).names for _ in range(150)]
    for name, share in SHARES.items():
        found = np.mean([name in names for names in seen])
        assert abs(found - share) < 3.5 * np.sqrt(share * (1 - share) / len(seen))
    for first in (0, 1):
        assert {name for patient in PATIENTS[first::2] for name in radiograph(patient).distractors} == {*SHARES}


def test_a_marker_is_dense_and_in_an_upper_corner_of_the_film() -> None:
    film, build = Film(128, Pose((9.0, 5.0), 0.05, 1.2)), draw_build(np.random.default_rng(0))
    drawn = (draw_distractors(film, build, np.random.default_rng(seed)) for seed in range(40))
    alone = [distractors for distractors in drawn if distractors.names == ("marker",)]
    assert alone
    for distractors in alone:
        y, x = np.nonzero(distractors.metal > 1)
        assert len(y) > 8
        assert (np.abs(x - 63.5) > 38).all()
        assert (y < 32).all()
        assert distractors.metal.max() <= 4
        assert not distractors.tissue.any()


def test_the_manifest_tells_the_truth_about_the_files(written: Path) -> None:
    assert [row["label"] for row in rows(written)] == ["0", "1"] * 6
    for row in rows(written):
        image, mask, healthy, region = (
            pixels(written.parent / row[role]) for role in ("image", "mask", "healthy", "region")
        )
        assert row["sha256"] == hashlib.sha256((written.parent / row["image"]).read_bytes()).hexdigest()
        assert image.dtype == healthy.dtype == np.uint16
        assert mask.dtype == region.dtype == np.uint8
        sick = row["label"] == "1"
        assert sick == mask.any() == (row["severity"] != "0") == (row["image"] != row["healthy"])
        assert len({len(row[column].split("+")) for column in ("side", "zone", "kind", "density")}) == 1
        assert set(row["side"].split("+")) <= ({"right", "left"} if sick else {""})


def test_patients_are_drawn_once_and_do_not_depend_on_how_many_there_are(tmp_path: Path, written: Path) -> None:
    before = written.stat().st_mtime_ns
    assert ChestPhantom(patients=12, size=48).manifest(written.parents[1]) == written
    assert written.stat().st_mtime_ns == before
    fewer = ChestPhantom(patients=4, size=48).manifest(tmp_path)
    assert rows(fewer) == rows(written)[:4]


def test_it_is_read_with_regions_masks_and_healthy_counterparts(written: Path) -> None:
    split = Data(written, intensity=FullRange(), size=48, channels=1, cache=written.parents[1] / "data").split("train")
    batch = split.batch(range(len(split)))
    for item, source in enumerate(split.origin.sources):
        patient = int(source.removeprefix("patient_"))
        shot = ChestPhantom(size=48).radiograph(patient)
        np.testing.assert_allclose(batch["image"][item, 0], shot.image / (GREY / 2) - 1, atol=1e-6)
        np.testing.assert_allclose(batch["healthy"][item, 0], shot.healthy / (GREY / 2) - 1, atol=1e-6)
        np.testing.assert_array_equal(batch["mask"][item], shot.mask > 0)
        np.testing.assert_array_equal(batch["region"][item], shot.regions)


@pytest.mark.parametrize(
    "setting",
    [{"patients": 0}, {"size": 8}, {"seed": -1}, {"noise": -1.0}, {"pneumonia_fraction": 1.5}, {"splits": {}}],
)
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigError, match=f"phantom.{next(iter(setting))}"):
        ChestPhantom(**setting)


def test_the_command_writes_a_folder_with_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", "chest", "-o", str(tmp_path / "chest"), "--patients", "3", "--size", "32"]
    assert make_phantom.main([*arguments, "--slices", "4"]) == 2
    assert "--slices is no option of --kind chest" in capsys.readouterr().err
    assert make_phantom.main(arguments) == 0
    assert len(rows(tmp_path / "chest" / "manifest.csv")) == 3
    assert Image.open(tmp_path / "chest" / "preview.png").size[0] > 3 * 128
    assert f"data=chest_phantom data.manifest={tmp_path / 'chest' / 'manifest.csv'}" in capsys.readouterr().out
