"""A run explains a user's images: any size and format, in their own geometry."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from images_to_explain import BRIGHT, DARK, spot, write_dicom
from PIL import Image as Pil
from untrained_run import Both, legible, untrained_run

from cfxai.loaded import LoadedRun, load_run

SIZE = 32  # of the run's images


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CT volumes in HU, with a field of view in mm."""
    return untrained_run(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """A run of pictures, whole and over their full range, that can be followed by hand."""
    return legible(untrained_run(tmp_path_factory.mktemp("pictures"), pictures=True))


@pytest.fixture(scope="module")
def scans(volumes: Path) -> LoadedRun:
    return legible(volumes)


# Preparation


def test_an_image_is_prepared_as_the_runs_own_were(volumes: Path) -> None:
    run = load_run(volumes)
    dataset = run.data.split("test")
    source = dataset.origin.sources[0]
    table = run.data.manifest_lock()
    file = next(Path(path) for path in table["image"] if Path(path).name.startswith(source))
    opened = run.open(file)
    assert len(opened.images) == nib.load(file).shape[2]
    for item, name in enumerate(dataset.origin.sources):
        if name == source:
            assert np.array_equal(opened.images[dataset.origin.slices[item]], dataset.images[item])


def test_file_array_and_picture_are_one(pictures: LoadedRun, tmp_path: Path) -> None:
    values = spot(48, 40, slice(10, 20), slice(8, 16))
    Pil.fromarray(values).save(tmp_path / "x.png")
    found = [pictures.explain(given) for given in (tmp_path / "x.png", str(tmp_path / "x.png"), values)]
    found.append(pictures.explain(Pil.fromarray(values)))
    for other in found:
        assert np.array_equal(other.counterfactual, found[0].counterfactual)
        assert other.before == found[0].before


# Back to the image's own grid


def test_the_change_is_interpolated_between_cells(pictures: LoadedRun) -> None:
    values = spot(2 * SIZE, 2 * SIZE, slice(20, 30), slice(8, 24))
    found = pictures.explain(values)
    unit = torch.from_numpy(values).float() / 127.5 - 1
    small = F.avg_pool2d(unit[None, None], 2)
    change = F.interpolate(small.clamp(max=0.0) - small, scale_factor=2, mode="bilinear", align_corners=False)
    assert found.counterfactual - values == pytest.approx(change[0, 0].numpy() * 127.5, abs=1e-3)
    assert found.difference == pytest.approx(change[0, 0].abs().numpy() / 2, abs=1e-5)


def test_pixels_larger_than_cells_get_their_mean(pictures: LoadedRun) -> None:
    values = spot(SIZE // 2, SIZE // 2, slice(4, 8), slice(4, 10))
    found = pictures.explain(values)
    cells = torch.from_numpy(pictures.open(values).images)
    change = F.avg_pool2d(cells.clamp(max=0.0) - cells, 2)[0, 0].numpy()
    assert found.counterfactual - values == pytest.approx(change * 127.5, abs=1e-3)


@settings(max_examples=25)
@given(height=st.integers(8, 90), width=st.integers(8, 90), row=st.floats(0, 1), column=st.floats(0, 1))
def test_any_size_is_restored(pictures: LoadedRun, height: int, width: int, row: float, column: float) -> None:
    rows, columns = (slice(int(start * (n // 2)), int(start * (n // 2)) + n // 2) for start, n in
                     ((row, height), (column, width)))  # fmt: skip
    values = spot(height, width, rows, columns)
    found = pictures.explain(values)
    assert (
        found.image.shape == found.counterfactual.shape == found.difference.shape == found.mask.shape == (height, width)
    )
    assert np.array_equal(found.image, values)
    untouched = found.difference == 0
    assert np.array_equal(found.counterfactual[untouched], values[untouched])
    reach = [int(np.ceil(n / SIZE)) + 1 for n in (height, width)]
    near = np.zeros((height, width), bool)
    near[
        max(0, rows.start - reach[0]) : rows.stop + reach[0], max(0, columns.start - reach[1]) : columns.stop + reach[1]
    ] = True
    assert untouched[~near].all()
    assert found.mask.any()


def test_a_volume_keeps_its_geometry(scans: LoadedRun, tmp_path: Path) -> None:
    """Axes swapped and flipped, 3 mm voxels; the field of view is 192 mm, so that its rim is never looked at."""
    values = np.full((90, 12, 80), -100, np.int16)
    lesion = (slice(40, 52), slice(5, 7), slice(30, 44))
    values[lesion] = 200
    values[0, :, 0] = 900  # outside the field of view
    affine = np.array([[-3.0, 0, 0, 50], [0, 0, 3.0, -40], [0, 8.0, 0, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    found = scans.explain(tmp_path / "scan.nii.gz", threshold=0.2)
    assert found.flipped
    assert found.mask_size == pytest.approx(found.mask.sum() * 72.0)
    paths = {path.name: path for path in found.save(tmp_path / "out")}
    assert paths.keys() == {f"scan-{kind}" for kind in
                            ("counterfactual.nii.gz", "difference.nii.gz", "mask.nii.gz", "panel.png")}  # fmt: skip
    read = {kind: nib.load(paths[f"scan-{kind}.nii.gz"]) for kind in ("counterfactual", "difference", "mask")}
    for image in read.values():
        assert image.shape == values.shape
        assert np.array_equal(image.affine, affine)
    mask, difference = np.asarray(read["mask"].dataobj) > 0, np.asarray(read["difference"].dataobj)
    assert np.array_equal(mask, difference > np.float32(0.2))
    truth = np.zeros(values.shape, bool)
    truth[lesion] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    counterfactual = np.asarray(read["counterfactual"].dataobj)
    assert np.array_equal(counterfactual[difference == 0], values[difference == 0])
    assert counterfactual[0, 0, 0] == 900
    assert counterfactual[46, 6, 37] == pytest.approx(40.0)  # the middle of the window


def test_a_picture_of_a_ct_in_a_run_of_hu_says_what_it_assumes(scans: LoadedRun) -> None:
    found = scans.explain(spot(64, 64, slice(20, 40), slice(20, 40)))
    assert found.flipped
    assert any("size of its pixels in mm is unknown" in note for note in found.notes)
    assert any("no HU" in note for note in found.notes)


def test_an_open_scale_in_a_run_of_pictures_says_what_it_assumes(pictures: LoadedRun, tmp_path: Path) -> None:
    values = spot(64, 64, slice(20, 40), slice(20, 40))
    expected = pictures.explain(np.where(values == BRIGHT, 255, 0).astype(np.uint8))
    volume = (values.T.astype(np.int16) * 7 - 300)[::-1, ::-1, None]  # [i j k], RAS: columns to the left, rows upwards
    nib.save(nib.Nifti1Image(np.ascontiguousarray(volume), np.eye(4)), tmp_path / "film.nii.gz")
    found = pictures.explain(tmp_path / "film.nii.gz")
    assert any("its extremes are taken for it" in note for note in found.notes)
    assert found.before == pytest.approx(expected.before)
    bright = values == BRIGHT  # around it an open scale has room for darker than dark
    assert found.difference.squeeze().T[::-1, ::-1][bright] == pytest.approx(expected.difference[bright], abs=1e-5)


# Files


def test_pictures_are_saved_without_loss(pictures: LoadedRun, tmp_path: Path) -> None:
    deep = spot(40, 40, slice(4, 12), slice(4, 12)).astype(np.uint16) * 257 - 3
    for values, factor in ((spot(40, 40, slice(4, 12), slice(4, 12)), 257), (deep, 1)):
        found = pictures.explain(values)
        out = tmp_path / str(factor)
        found.save(out, "x")
        saved = {kind: np.asarray(Pil.open(out / f"x-{kind}.png")) for kind in ("counterfactual", "difference", "mask")}
        assert saved["counterfactual"].dtype == saved["difference"].dtype == np.uint16
        untouched = found.difference == 0
        assert np.array_equal(saved["counterfactual"][untouched], values[untouched].astype(int) * factor)
        assert np.array_equal(saved["mask"], found.mask * np.uint8(255))
        assert saved["difference"] == pytest.approx(found.difference * 65535, abs=0.51)


def test_nothing_of_a_dicom_header_is_written(scans: LoadedRun, tmp_path: Path) -> None:
    pixels = np.full((48, 56), -120)
    pixels[20:28, 24:32] = 200
    found = scans.explain(write_dicom(tmp_path / "slice.dcm", pixels))
    assert found.flipped
    assert found.counterfactual.shape == pixels.shape
    assert np.array_equal(found.image, pixels)
    assert found.mask_size == pytest.approx(found.mask.sum() * 36.0)
    for path in found.save(tmp_path / "out"):
        assert path.suffix == ".png"
        content = path.read_bytes()
        assert not any(secret in content for secret in (b"Musterfrau", b"SECRET", b"ACC-0815", b"19700101"))


def test_names_lead_nowhere_else(pictures: LoadedRun, tmp_path: Path) -> None:
    found = pictures.explain(spot(16, 16, slice(2, 8), slice(2, 8)))
    for name in ("../../evil", "..\\evil", "/etc/passwd", "a/b/c.nii.gz", "...", ""):
        for path in found.save(tmp_path / "out", name):
            assert path.resolve().parent == (tmp_path / "out").resolve()


# The direction


def test_a_one_way_method_says_so(pictures: LoadedRun) -> None:
    found = pictures.explain(np.full((32, 32), DARK, np.uint8))
    assert (found.target, found.flipped) == ("normal", False)
    assert any("only makes images normal" in note for note in found.notes)


def test_a_two_way_method_goes_the_other_way(volumes: Path) -> None:
    run = legible(volumes, Both)
    sick, well = spot(32, 32, slice(8, 16), slice(8, 16)), np.full((32, 32), DARK, np.uint8)
    assert [run.explain(image).target for image in (sick, well)] == ["normal", "abnormal"]
    assert all(run.explain(image).flipped for image in (sick, well))
    volume = np.stack([well, well, spot(32, 32, slice(8, 24), slice(8, 24))]).astype(np.float32) - 60  # HU, 1 mm
    found = run.explain(volume)
    assert found.target == "normal"
    assert np.array_equal(found.counterfactual[:2], volume[:2])


def test_probabilities_are_the_classifiers(pictures: LoadedRun) -> None:
    found = pictures.explain(spot(32, 32, slice(8, 16), slice(8, 16)))
    for probabilities, brightest in ((found.before, BRIGHT / 127.5 - 1), (found.after, 0.0)):
        expected = 1 / (1 + np.exp(-8 * (brightest - 0.5)))
        assert probabilities["abnormal"] == pytest.approx(expected, abs=1e-5)
        assert sum(probabilities.values()) == pytest.approx(1)


def test_the_threshold_is_the_evaluations(volumes: Path) -> None:
    run = load_run(volumes)
    assert run.threshold == 0.25
    run.run.evaluation.mkdir()
    (run.run.evaluation / "metrics.json").write_text(json.dumps({"cf_threshold": 0.125}))
    assert run.explain(spot(32, 32, slice(2, 9), slice(2, 9))).threshold == 0.125
    (run.run.evaluation / "metrics.json").unlink()
    run.run.evaluation.rmdir()


def test_saliency_lies_on_the_images_grid(volumes: Path) -> None:
    run = load_run(volumes)
    volume = np.random.default_rng(0).normal(0, 100, (3, 50, 44)).astype(np.float32)
    found = run.explain(volume, attributors=["gradient"])
    assert found.saliency["gradient"].shape == volume.shape
    assert (found.saliency["gradient"] >= 0).all()
    assert found.saliency["gradient"].max() > 0


# What is odd


def test_colour_in_a_grey_run(pictures: LoadedRun) -> None:
    values = np.stack([spot(32, 32, slice(8, 16), slice(8, 16))] * 3, -1)
    values[..., 0] //= 2
    found = pictures.explain(values)
    assert any("colour" in note for note in found.notes)
    assert found.counterfactual.shape == values.shape
    change = found.counterfactual - values
    inside = (found.counterfactual > 0).all(-1)
    assert np.ptp(change[inside], axis=-1) == pytest.approx(0, abs=1e-3), "all colours move alike"


def test_twenty_megapixels(pictures: LoadedRun, tmp_path: Path) -> None:
    Pil.fromarray(spot(5000, 4000, slice(625, 1875), slice(500, 1500))).save(tmp_path / "large.png", compress_level=1)
    found = pictures.explain(tmp_path / "large.png")
    assert found.mask.shape == (5000, 4000)
    # 8 x 8 whole cells; between those of 0.4 and 0, the difference is 0.25 an eighth of a cell inside the edge.
    assert found.mask.mean() == pytest.approx((8 - 2 / 8) ** 2 / SIZE**2, rel=0.01)
