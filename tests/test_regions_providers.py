"""Where regions are: grids, rings, boxes, label maps, superpixels, atlases and segmentation networks."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image as Picture
from safetensors.torch import save_file
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF, options
from cfxai.errors import ConfigError, DataError
from cfxai.protocols import Regions
from cfxai.regions.atlas import Atlas
from cfxai.regions.body import find_body
from cfxai.regions.boxes import Boxes
from cfxai.regions.grid import Grid
from cfxai.regions.label_map import LabelMap
from cfxai.regions.rings import Rings
from cfxai.regions.segmentation import Segmentation
from cfxai.regions.superpixels import Superpixels

SHAPES = st.lists(st.integers(1, 13), min_size=2, max_size=3).map(tuple)


def blank(*spatial: int, images: int = 2) -> dict[str, Tensor]:
    return {"image": torch.zeros(images, 1, *spatial)}


def partitions(maps: Tensor) -> bool:
    """Each pixel in exactly one region."""
    return bool(((maps == 0) | (maps == 1)).all() and (maps.sum(1) == 1).all())


@settings(max_examples=80)
@given(SHAPES, st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_a_grid_partitions_any_image(shape: tuple[int, ...], rows: int, columns: int, slabs: int) -> None:
    grid = Grid(rows=rows, columns=columns, slabs=slabs if len(shape) == 3 else 1)
    maps = grid(blank(*shape))
    assert maps.shape == (2, len(grid.names), *shape)
    assert len(set(grid.names)) == len(grid.names)
    assert partitions(maps)


def test_thirds_are_the_published_ones_and_cells_count_from_the_upper_left() -> None:
    thirds = Grid()
    assert list(thirds.names) == ["left third", "middle third", "right third"]
    for width, widths in ((224, [74, 74, 76]), (7, [2, 2, 3])):
        assert thirds(blank(5, width))[0, :, 0].sum(1).tolist() == widths
    assert thirds(blank(5, 224))[0, 0, 0, 0] == 1
    cells = Grid(rows=3, columns=2)
    place = cells.names.index("row 3 column 1")
    assert cells(blank(6, 4))[0, place].nonzero().tolist() == [[4, 0], [4, 1], [5, 0], [5, 1]]
    corner = Grid(rows=2, columns=2)
    assert corner(blank(4, 4))[0, corner.names.index("upper right quadrant"), 0, 3] == 1


def test_slabs_cut_the_first_axis_of_volumes() -> None:
    grid = Grid(rows=1, columns=1, slabs=2)
    assert list(grid.names) == ["slab 1 row 1 column 1", "slab 2 row 1 column 1"]
    assert grid(blank(5, 3, 3))[0, :, :, 0, 0].tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    with pytest.raises(DataError, match="slabs"):
        grid(blank(5, 5))


@settings(max_examples=60)
@given(SHAPES, st.integers(1, 5), st.sampled_from(["width", "area"]))
def test_rings_partition_any_image_alike_on_all_sides(shape: tuple[int, ...], count: int, equal: str) -> None:
    maps = Rings(count=count, equal=equal)(blank(*shape))
    assert maps.shape[1] == count
    assert partitions(maps)
    assert torch.equal(maps, maps.flip(-1))
    assert torch.equal(maps, maps.flip(2))


def test_rings_of_equal_width_are_circles_and_of_equal_area_as_large() -> None:
    maps = Rings(count=4)(blank(400, 400))[0]
    radii = (maps.cumsum(0).sum((1, 2)) / torch.pi).sqrt()[:3]
    assert radii.tolist() == pytest.approx([50, 100, 150], rel=0.01)
    assert Rings(count=4, equal="area")(blank(100, 80))[0].sum((1, 2)).tolist() == pytest.approx([2000] * 4, rel=0.01)


def test_a_box_counts_a_pixel_as_far_as_it_covers_it() -> None:
    boxes = Boxes(boxes={"lower left": [0.5, 0, 1, 0.5], "all": [0, 0, 1, 1]})
    assert boxes(blank(2, 5))[0, 0].tolist() == [[0, 0, 0, 0, 0], [1, 1, 0.5, 0, 0]]
    for size in (7, 64, 224):
        assert boxes(blank(size, size))[0].mean((1, 2)).tolist() == pytest.approx([0.25, 1])
    inner = Boxes(boxes={"core": [0.25, 0.25, 0.25, 0.75, 0.75, 0.75]})
    assert inner(blank(4, 4, 4))[0].sum() == 8
    with pytest.raises(DataError, match="core"):
        inner(blank(4, 4))


@pytest.mark.parametrize("box", [[0.5, 0, 0.5, 1], [0, 0, 1, 1.1], [-0.1, 0, 1, 1], [0, 0, 1]])
def test_a_box_outside_the_image_or_without_size_is_refused_by_name(box: list[float]) -> None:
    with pytest.raises(ConfigError, match="heart"):
        Boxes(boxes={"heart": box})


def test_label_maps_give_the_named_labels() -> None:
    batch = blank(2, 2, images=1) | {"region": torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)}
    regions = LabelMap(labels={"heart": 1, "lungs": [2, 3], "liver": 7})
    assert regions(batch).tolist() == [[[[0, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]]]
    organ = LabelMap(labels={"kidney": 1}, source="organ")
    assert organ(blank(1, 2, images=1) | {"organ": torch.tensor([[[True, False]]])}).tolist() == [[[[1, 0]]]]
    with pytest.raises(DataError, match=r"data\.organ_masks=true"):
        organ(batch)
    with pytest.raises(ConfigError, match="labels"):
        LabelMap(labels={"background": 0})


@pytest.mark.parametrize("shape", [(2, 1, 32, 40), (1, 3, 24, 24), (1, 1, 8, 10, 12)])
def test_superpixels_partition_into_at_most_so_many_and_come_out_the_same_again(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    regions = Superpixels(count=6)
    maps = regions({"image": image})
    assert maps.shape == (shape[0], 6, *shape[2:])
    assert partitions(maps)
    assert torch.equal(maps, regions({"image": image}))


def test_superpixels_follow_edges() -> None:
    image = torch.full((1, 1, 20, 20), -1.0)
    image[..., 13:] = 1
    maps = Superpixels(count=4)({"image": image})[0]
    assert not (maps[:, :, :13].any(2).any(1) & maps[:, :, 13:].any(2).any(1)).any()
    assert partitions(Superpixels(count=4)(blank(20, 20)))


def ellipse(*spatial: int, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(length) + 0.5 for length in spatial], indexing="ij")
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) <= 1


def test_the_body_has_its_dark_organs_but_not_the_marker_beside_it() -> None:
    image = np.full((1, 1, 64, 64), -0.95, np.float32)
    body = ellipse(64, 64, centre=(34, 32), radii=(26, 20))
    image[0, 0][body] = 0.3
    image[0, 0][ellipse(64, 64, centre=(30, 25), radii=(10, 5))] = -0.95
    image[0, 0, 3:8, 3:8] = 1.0
    found = find_body(torch.from_numpy(image))[0].numpy()
    assert 2 * (found & body).sum() / (found.sum() + body.sum()) > 0.95
    assert not found[:10, :10].any()
    assert find_body(torch.full((1, 1, 16, 16), 0.5)).all()


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """A body (1) with its upper half (2) and, in it, an organ (3)."""
    labels = ellipse(60, 50, centre=(30, 25), radii=(24, 15)).astype(np.uint8)
    labels[:30] *= 2
    labels[ellipse(60, 50, centre=(20, 25), radii=(5, 4))] = 3
    Picture.fromarray(labels).save(tmp_path / "atlas.png")
    np.savez(tmp_path / "atlas.npz", labels=labels)
    return tmp_path / "atlas.png"


@pytest.mark.parametrize("align", ["box", "affine"])
def test_an_atlas_is_shifted_and_stretched_onto_the_body(atlas: Path, align: str) -> None:
    image = torch.full((2, 1, 80, 80), -1.0)
    for number, (centre, radii) in enumerate([((45, 40), (30, 24)), ((30, 28), (16, 14))]):
        image[number, 0][torch.from_numpy(ellipse(80, 80, centre=centre, radii=radii))] = 0.5
    regions = Atlas(file=atlas, labels={"organ": 3, "body": [1, 2, 3]}, align=align)
    organ = regions({"image": image})[:, 0]
    for number, expected in enumerate(
        [
            ellipse(80, 80, centre=(45 - 10 / 24 * 30, 40), radii=(5 / 24 * 30, 4 / 15 * 24)),
            ellipse(80, 80, centre=(30 - 10 / 24 * 16, 28), radii=(5 / 24 * 16, 4 / 15 * 14)),
        ]
    ):
        truth = torch.from_numpy(expected).float()
        assert 2 * (organ[number] * truth).sum() / (organ[number].sum() + truth.sum()) > 0.8
    assert (regions.overlap({"image": image}) > 0.95).all()
    again = Atlas(file=atlas.with_suffix(".npz"), labels={"organ": 3}, align=align)
    assert torch.equal(again({"image": image})[:, 0], organ)


def test_an_atlas_by_moments_follows_a_shear_that_a_box_cannot(atlas: Path) -> None:
    y, x = np.meshgrid(np.arange(80) - 39.5, np.arange(80) - 39.5, indexing="ij")
    image = torch.full((1, 1, 80, 80), -1.0)
    image[0, 0][torch.from_numpy((y / 30) ** 2 + ((x - 0.4 * y) / 14) ** 2 <= 1)] = 0.5
    by_box, by_moments = (Atlas(file=atlas, labels={"organ": 3}, align=align, least=0) for align in ("box", "affine"))
    assert by_moments.overlap({"image": image}) > 0.97 > 0.9 > by_box.overlap({"image": image})


def test_an_image_that_the_atlas_does_not_fit_has_no_regions(atlas: Path) -> None:
    image = torch.full((1, 1, 60, 60), -1.0)
    image[0, 0, :58, 2:6] = image[0, 0, 54:58, 2:58] = 0.5  # an L
    regions = Atlas(file=atlas, labels={"organ": 3})
    assert regions.overlap({"image": image}) < 0.8
    assert not regions({"image": image}).any()
    with pytest.raises(DataError, match="2 axes"):
        regions(blank(8, 8, 8))


def test_an_atlas_volume_is_turned_as_images_are(tmp_path: Path) -> None:
    labels = np.ones((8, 10, 12), np.uint8)  # right, anterior, superior
    labels[:, :, 9:] = 2
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "atlas.nii.gz")
    head = Atlas(file=tmp_path / "atlas.nii.gz", labels={"head": 2})(blank(24, 20, 16, images=1))[0, 0]
    assert (head.amax((1, 2)) > 0.5).nonzero()[:, 0].tolist() == list(range(18, 24))  # head last, as in "volume"


def test_atlas_files_that_cannot_be_used_are_named(atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spleen.*label 9"):
        Atlas(file=atlas, labels={"spleen": 9})
    with pytest.raises(DataError, match=r"none\.png"):
        Atlas(file=tmp_path / "none.png", labels={"organ": 3})
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"broken\.nii\.gz"):
        Atlas(file=tmp_path / "broken.nii.gz", labels={"organ": 3})
    np.savez(tmp_path / "soft.npz", labels=np.full((4, 4), 0.5))
    with pytest.raises(DataError, match="whole numbers"):
        Atlas(file=tmp_path / "soft.npz", labels={"organ": 3})


def test_a_network_gives_soft_maps_by_channel_or_labels(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 3, 1)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    image = torch.rand(2, 1, 6, 5)
    expected = network(image).softmax(1)
    fresh = nn.Conv2d(1, 3, 1)
    regions = Segmentation(fresh, labels={"heart": 2, "lung": 0}, weights=tmp_path / "weights.safetensors")
    assert torch.allclose(regions({"image": image}), expected[:, [2, 0]])
    assert not regions({"image": image}).requires_grad
    sides = Segmentation(lambda x: (x[:, 0] > 0.5).long() + 1, labels={"dark": 1, "bright": 2})
    assert torch.equal(sides({"image": image})[:, 1], (image[:, 0] > 0.5).float())
    with pytest.raises(ConfigError, match="spleen"):
        Segmentation(network, labels={"spleen": 3})({"image": image})
    with pytest.raises(DataError, match="grid"):
        Segmentation(nn.AvgPool2d(2), labels={"heart": 0})({"image": image})


NEEDS: dict[str, dict[str, object]] = {
    "boxes": {"boxes": {"heart": [0.3, 0.3, 0.8, 0.7]}},
    "label_map": {"labels": {"heart": 1}},
    "segmentation": {"network": {"_target_": "torch.nn.Identity"}, "labels": {"all": 0}},
}


@pytest.mark.parametrize("name", options("regions"))
def test_every_preset_is_described_and_builds(name: str, atlas: Path) -> None:
    needs = NEEDS | {"atlas": {"file": str(atlas), "labels": {"organ": 3}}}
    section = OmegaConf.merge(OmegaConf.load(CONF / f"regions/{name}.yaml"), needs.get(name, {}))
    regions = Parts({"regions": section})["regions"]
    assert isinstance(regions, Regions)
    assert options("regions")[name]
    batch = blank(48, 48) | {"region": torch.ones(2, 48, 48).long(), "organ": torch.ones(2, 48, 48).bool()}
    maps = regions(batch)
    assert maps.shape == (2, len(regions.names), 48, 48)
    assert ((maps >= 0) & (maps <= 1)).all()
