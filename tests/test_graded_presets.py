"""The readers of published graded data sets, on small folders in exactly their layout; colour."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.data.dataset import Data
from cfxai.data.intensity import FullRange, Window
from cfxai.data.published.verse import Verse
from cfxai.errors import DataError

REAL = Path(__file__).parents[2] / "shared/data/files/nifti_tptbox_vertebra"
WHOLE_RANGE = {"_target_": "cfxai.data.intensity.Percentile", "lower": 0, "upper": 100}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def preset(name: str, folder: Path, source: dict[str, Any] | None = None, **settings: Any) -> Data:
    """What `data=name` makes of a folder, with other settings of the source and of the data."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / "data" / f"{name}.yaml"))
    node |= settings | {"source": node["source"] | {"folder": str(folder)} | (source or {})}
    return Parts({"data": node, "cache": str(folder.parent / "cache")})["data"]


def write_metaimage(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """An uncompressed `.mha` file of [i j k] values; `affine` leads to RAS."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions, origin = (LPS @ affine)[:3, :3] / spacing, (LPS @ affine)[:3, 3]
    kind = {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}[str(values.dtype)]

    def line(numbers: Any) -> str:
        return " ".join(str(number) for number in np.ravel(numbers))

    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {line(directions.T)}\nOffset = {line(origin)}\nElementSpacing = {line(spacing)}\n"
        f"DimSize = {line(values.shape)}\nElementType = {kind}\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + values.tobytes(order="F"))


# RetinaMNIST


def retina(folder: Path, size: int = 12) -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    for split, count in {"train": 10, "val": 5, "test": 6}.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count)[:, None] % 5).astype(np.uint8)
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "retinamnist_128.npz", **arrays)
    return arrays


def test_retinamnist_keeps_its_splits_colours_and_grades(tmp_path: Path) -> None:
    arrays = retina(tmp_path / "retina")
    data = preset("retinamnist", tmp_path / "retina", size=12)
    for split in ("train", "val", "test"):
        dataset = data.split(split)
        stored = {grade: [] for grade in range(5)}
        for pixels, grade in zip(arrays[f"{split}_images"], arrays[f"{split}_labels"][:, 0], strict=True):
            stored[grade].append(np.moveaxis(pixels, -1, 0) / 127.5 - 1)
        assert dataset.images.shape == (len(arrays[f"{split}_images"]), 3, 12, 12)
        for grade, expected in stored.items():
            found = dataset.images[dataset.grades == grade]
            np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), atol=1e-6)
        np.testing.assert_array_equal(dataset.labels, dataset.grades > 0)
    assert data.judged == "test"
    assert len({group for split in ("train", "val", "test") for group in data.split(split).groups}) == 21


# BraTS


def brats(folder: Path, cases: int = 6) -> None:
    """Volumes of 4 sequences on 10 x 12 x 8 voxels of 20 mm; the tumour of case k is as bright as 500 + k in FLAIR."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([-20.0, -20.0, 20.0, 1.0])
    for case in range(cases):
        labels = np.zeros((10, 12, 8), np.uint8)
        labels[4:6, 5:7, 3] = 1 + case % 3
        values = np.random.default_rng(case).integers(1, 100, (10, 12, 8, 4)).astype(np.int16)
        values[labels > 0, 0] = 500 + case
        values[0, 0, 0] = 9000  # outside the box
        nib.save(nib.Nifti1Image(values, affine), folder / f"imagesTr/BRATS_{case:03d}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), folder / f"labelsTr/BRATS_{case:03d}.nii.gz")
        (folder / f"imagesTr/._BRATS_{case:03d}.nii.gz").write_bytes(b"macOS")


def test_brats_gives_flair_slices_of_the_box_scaled_as_a_whole(tmp_path: Path) -> None:
    brats(tmp_path / "brats")
    settings = {"size": 10, "slice_step": 1, "slice_range": [0.0, 1.0], "intensity": WHOLE_RANGE}
    data = preset("brats", tmp_path / "brats", {"extent": [200, 200, 120]}, **settings)
    datasets = [data.split(split) for split in ("train", "val", "test")]
    assert sum(len(dataset) for dataset in datasets) == 6 * 6
    for dataset in datasets:
        assert dataset.images.shape[1:] == (1, 10, 10)
        assert dataset.grades is None
        for case in set(dataset.groups):
            chosen = np.array(dataset.groups) == case
            images, masks, labels = dataset.images[chosen], dataset.masks[chosen], dataset.labels[chosen]
            assert labels.sum() == 1
            assert masks.sum() == 4
            np.testing.assert_allclose(images[:, 0][masks], 1.0, atol=1e-6)
            assert images.min() == -1.0, "percentiles of the box, not of each slice"
            assert (images[labels == 0] < -0.5).all()


def test_brats_grades_by_area_and_gives_other_sequences_when_asked(tmp_path: Path) -> None:
    brats(tmp_path / "brats")
    source, settings = {"extent": [160, 160, 120], "sequence": 3}, {"size": 8, "plane": "volume"}
    data = preset("brats", tmp_path / "brats", source, grade_areas=[10000.0], **settings)
    dataset = data.split("train")
    assert dataset.grades.tolist() == [2] * len(dataset)
    assert dataset.images.max() <= 1
    wrong = preset("brats", tmp_path / "brats", {"sequence": 4})
    with pytest.raises(DataError, match=r"has shape \(10, 12, 8, 4\), which has no sequence 4"):
        wrong.split("train")


# SPIDER


def spider(folder: Path) -> None:
    """Patients 1 to 4 with T2 and 5 without; three discs each, of which the third of patient 4 has no grade."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    affine = np.array([[0, 0, 4.0, -10], [0, -1.0, 0, 30], [-1.0, 0, 0, 60], [0, 0, 0, 1]])  # head-foot, back, right
    rows = []
    for patient in range(1, 6):
        values = np.random.default_rng(patient).integers(0, 99, (80, 60, 6)).astype(np.int16)
        labels = np.zeros(values.shape, np.uint8)
        for disc in (1, 2, 3):
            labels[20 * disc : 20 * disc + 4, 20:30, 1:5] = 200 + disc
            values[labels == 200 + disc] = 100 * patient + disc
            grade = "" if (patient, disc) == (4, 3) else (patient + disc) % 5 + 1
            rows.append({"Patient": patient, "IVD label": disc, "Modic": 0, "Pfirrman grade": grade})
        for sequence in ("t1", "t2") if patient < 5 else ("t1",):
            write_metaimage(folder / f"images/{patient}_{sequence}.mha", values, affine)
            write_metaimage(folder / f"masks/{patient}_{sequence}.mha", labels, affine)
    pd.DataFrame(rows).to_csv(folder / "radiological_gradings.csv", index=False)
    parts = {1: "training", 2: "training", 3: "training", 4: "validation", 5: "training"}
    names = [{"new_file_name": f"{k}_{s}", "subset": part} for k, part in parts.items() for s in ("t1", "t2")]
    pd.DataFrame(names).to_csv(folder / "overview.csv", index=False)


def test_spider_gives_a_box_around_each_graded_disc(tmp_path: Path) -> None:
    spider(tmp_path / "spider")
    data = preset("spider", tmp_path / "spider", size=50, intensity=WHOLE_RANGE)
    table = pd.read_csv(data.manifest).set_index("image")
    assert len(table) == 3 * 3 + 2
    assert table.loc["2-disc3.nii.gz", "grade"] == (2 + 3) % 5
    assert set(table[table["patient"] == 4]["split"]) == {"validation"}
    assert 5 not in set(table["patient"])
    box = nib.load(data.manifest.parent / "2-disc1.nii.gz")
    assert box.shape == (4, 50, 50)
    np.testing.assert_allclose((box.affine @ [1.5, 24.5, 24.5, 1])[:3], [0, 5.5, 38.5], atol=2.01)
    assert np.asarray(box.dataobj)[2, 25, 25] == 201
    assert data.judged == "val"
    train = data.split("train")
    assert train.images.shape[1:] == (1, 50, 50)
    for name, grade, label, region in zip(train.ids, train.grades, train.labels, train.regions, strict=True):
        patient, disc = int(name[0]), int(name.split("disc")[1][0])
        assert (grade, label) == ((patient + disc) % 5, int((patient + disc) % 5 > 0))
        assert region[25, 25] in (0, 200 + disc)
    assert (train.regions[:, 25, 25] > 200).any()


# VerSe


def verse(folder: Path) -> None:
    """Three subjects, one with two scans, in two parts; labels 19 to 21 (T12 to L2), of which L2 has no grade."""
    grades = []
    scans = {"sub-verse004": "01training", "sub-gl017_dir-ax": "01training", "sub-verse100_dir-iso": "03test"}
    for subject, part in (scans | {"sub-verse100_split-verse200": "03test"}).items():
        raw, derived = (folder / f"dataset-{part}" / kind / subject for kind in ("rawdata", "derivatives"))
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        values = np.random.default_rng(len(subject)).integers(-100, 100, (30, 40, 60)).astype(np.int16)
        labels = np.zeros(values.shape, np.uint8)
        for position, label in enumerate((21, 20, 19)):
            labels[13:17, 18:22, 10 + 20 * position : 14 + 20 * position] = label
        values[labels > 0] = 10 * labels[labels > 0].astype(int) + 100
        affine = np.diag([-2.0, -2.0, 2.0, 1.0])
        nib.save(nib.Nifti1Image(values, affine), raw / f"{subject}_ct.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), derived / f"{subject}_seg-vert_msk.nii.gz")
    for subject, name in (("verse004", "verse004"), ("gl017", "sub-gl017"), ("verse100", "verse100")):
        grades += [{"subject": name, "vertebra": "T12", "grade": 0}, {"subject": name, "vertebra": 20, "grade": 3}]
        grades.append({"subject": subject, "vertebra": "L2", "grade": ""})
    grades.append({"subject": "verse999", "vertebra": "C3", "grade": 1})
    pd.DataFrame(grades).to_csv(folder / "grades.csv", index=False)


def test_verse_gives_a_box_around_each_graded_vertebra(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    verse(tmp_path / "verse")
    data = preset("verse", tmp_path / "verse", {"extent": [40, 40, 40]}, size=20, seed=1)
    table = pd.read_csv(data.manifest)
    assert sorted(table["image"]) == sorted(
        f"{scan}-{vertebra}.nii.gz"
        for scan in ("sub-verse004", "sub-gl017_dir-ax", "sub-verse100_dir-iso", "sub-verse100_split-verse200")
        for vertebra in ("T12", "L1")
    )
    assert "1 graded subjects have no scan" in caplog.text
    datasets = [data.split(split) for split in ("train", "val", "test")]
    assert sorted(len(dataset) for dataset in datasets) == [2, 2, 4], "by subject"
    for dataset in datasets:
        for name, grade, image, region in zip(
            dataset.ids, dataset.grades, dataset.images[:, 0], dataset.regions, strict=True
        ):
            label, expected = {"T12": (19, 0), "L1": (20, 3)}[name.rsplit("-")[-1]]
            assert grade == expected
            assert (region[8:12, 8:12, 8:12] == label).mean() > 0.4
            np.testing.assert_allclose(image[region == label], (10 * label + 300) / 450 - 1, atol=1e-5)


def test_the_manifest_is_written_once_and_again_when_files_change(tmp_path: Path) -> None:
    verse(tmp_path / "verse")
    first = Verse(tmp_path / "verse", [20.0] * 3).manifest(tmp_path / "cache")
    before = first.stat().st_mtime_ns
    assert Verse(tmp_path / "verse", [20.0] * 3).manifest(tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == before
    assert Verse(tmp_path / "verse", [30.0] * 3).manifest(tmp_path / "cache") != first
    (tmp_path / "verse/grades.csv").write_text("subject,vertebra,grade\nverse004,L1,2\n")
    changed = Verse(tmp_path / "verse", [20.0] * 3).manifest(tmp_path / "cache")
    assert pd.read_csv(changed)["grade"].tolist() == [2]
    assert not list((tmp_path / "cache").glob(".*"))


# What users get wrong


@pytest.mark.parametrize("name", ["retinamnist", "brats", "spider", "verse"])
def test_a_missing_folder_is_named_with_what_to_download(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; download .*, or set data\.source\.folder"):
        preset(name, tmp_path / "nowhere").split("train")
    (tmp_path / "nowhere").mkdir()
    missing = {"retinamnist": "retinamnist_128.npz", "brats": "imagesTr", "spider": "images", "verse": "grades.csv"}
    with pytest.raises(DataError, match=f"nowhere/{missing[name]}: no such file or folder"):
        preset(name, tmp_path / "nowhere").split("train")


def rewrite(file: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: change(pd.read_csv(folder / file, dtype=str)).to_csv(folder / file, index=False)


@pytest.mark.parametrize(
    ("name", "make", "damage", "message"),
    [
        ("spider", spider, rewrite("radiological_gradings.csv", lambda t: t.rename(columns={"Pfirrman grade": "P"})),
         r"has no column 'Pfirrman grade' .*; set data\.source\.columns"),
        ("spider", spider, rewrite("radiological_gradings.csv", lambda t: t.assign(**{"Pfirrman grade": "mild"})),
         "'mild' in column 'Pfirrman grade' is not a whole number"),
        ("spider", spider, lambda folder: (folder / "masks/2_t2.mha").unlink(), r"2_t2\.mha: no such file"),
        ("spider", spider, lambda folder: [f.unlink() for f in (folder / "images").glob("*_t2.mha")],
         "has no image that can be used; download SPIDER"),
        ("verse", verse, rewrite("grades.csv", lambda t: t.assign(vertebra="L9")), "'L9' in column 'vertebra'"),
        ("verse", verse, rewrite("grades.csv", lambda t: t.assign(vertebra="31")), "'31' .* is no vertebra"),
        ("verse", verse, lambda folder: next(folder.rglob("sub-verse004_seg*")).unlink(), "has no label map"),
        ("brats", brats, lambda folder: (folder / "labelsTr/BRATS_001.nii.gz").unlink(), "BRATS_001.* no such file"),
        ("brats", brats, lambda folder: (folder / "imagesTr/BRATS_001.nii.gz").write_bytes(b"x"), "it is damaged"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named(
    name: str, make: Callable, damage: Callable, message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    damage(tmp_path / name)
    with pytest.raises(DataError, match=message):
        preset(name, tmp_path / name).split("train")
    assert not list((tmp_path / "cache/published").glob("*")), "nothing half-written is left"


def test_a_label_map_off_its_image_is_refused(tmp_path: Path) -> None:
    verse(tmp_path / "verse")
    mask = next((tmp_path / "verse").rglob("sub-verse004_seg*"))
    stored = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine + np.diag([1.0, 0, 0, 0])), mask)
    with pytest.raises(DataError, match=r"sub-verse004_seg-vert_msk\.nii\.gz: does not lie on the grid"):
        Verse(tmp_path / "verse").manifest(tmp_path / "cache")


# Colour


def colours(folder: Path, grey: tuple[int, ...] = ()) -> Path:
    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if number in grey else pixels).save(folder / f"{number}.png")
        split = ("train", "val", "test")[number % 3]
        rows.append({"image": f"{number}.png", "label": number // 3, "patient": number, "split": split})
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


@pytest.mark.parametrize(("channels", "shape"), [(3, 3), (1, 1), (None, 3)])
def test_the_key_channels_says_whether_colour_is_wanted(tmp_path: Path, channels: int | None, shape: int) -> None:
    manifest = colours(tmp_path)
    data = Data(manifest, intensity=FullRange(), size=8, channels=channels, cache=tmp_path / "cache")
    assert data.channels == shape
    pixels = np.asarray(Image.open(tmp_path / "0.png")) / 127.5 - 1
    expected = [pixels @ [0.299, 0.587, 0.114]] if shape == 1 else np.moveaxis(pixels, -1, 0)
    np.testing.assert_allclose(data.split("train").images[0], expected, atol=1e-5)


def test_grey_and_colour_are_never_mixed_silently(tmp_path: Path) -> None:
    manifest = colours(tmp_path, grey=(3,))
    with pytest.raises(DataError, match=r"set data\.channels=1 \(grey\) or 3 \(colour\)"):
        Data(manifest, intensity=FullRange(), size=8, cache=tmp_path / "cache").split("train")
    both = Data(manifest, intensity=FullRange(), size=8, channels=3, cache=tmp_path / "cache").split("train")
    assert np.ptp(both.images[1], axis=0).max() == 0
    assert np.ptp(both.images[0], axis=0).max() > 0


# Real vertebrae


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real vertebra crops")
def test_a_real_vertebra_is_cut_out_around_its_label(tmp_path: Path) -> None:
    folder = tmp_path / "verse"
    for subject in map("sub-{}".format, range(8)):
        for part, name in (("ct_label-22_ct", "ct"), ("ct_seg-vert_label-22_msk", "seg-vert_msk")):
            source, target = REAL / f"sub-{part}.nii.gz", folder / "rawdata" / f"{subject}_{name}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    pd.DataFrame({"subject": range(8), "vertebra": "L3", "grade": [0, 1] * 4}).to_csv(
        folder / "grades.csv", index=False
    )
    settings = {"intensity": Window(-200.0, 700.0), "plane": "volume", "size": 32, "allow_leakage": True}
    data = Data(source=Verse(folder, [100.0] * 3), cache=tmp_path / "cache", **settings)
    dataset = data.split("train")
    assert dataset.images.shape[1:] == (1, 32, 32, 32)
    found = np.argwhere(dataset.regions[0] == 22)
    np.testing.assert_allclose(found.mean(0), 15.5, atol=1.0)
    assert dataset.images[0, 0][dataset.regions[0] == 22].mean() > dataset.images[0, 0].mean()
