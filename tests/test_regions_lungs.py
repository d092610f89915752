"""The lung finder and its zones, on a drawn chest and, where they are at hand, on real X-rays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cfxai.errors import ConfigError, DataError
from cfxai.regions.grid import Grid
from cfxai.regions.lung_zones import LungZones
from cfxai.regions.lungs import Lungs
from cfxai.regions.scores import scores

REAL = Path(__file__).parents[2] / "shared/data/chest_xray_128.npz"


def chest(size: int = 128, *, shift: float = 0.0, white: bool = False) -> tuple[Tensor, Tensor]:
    """[1 1 size size] in [-1, 1]: black air, a bright body, two dark ellipses; and them, the image's left one first.

    `white`: the lower half of the image's right lung is as bright as the body.
    """
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    x = x - shift
    image = np.where(np.abs(x - 0.5) < 0.42, 0.4, -1.0)
    lungs = np.stack([((x - centre) / 0.12) ** 2 + ((y - 0.48) / 0.3) ** 2 <= 1 for centre in (0.31, 0.69)])
    image[lungs.any(0)] = -0.4
    if white:
        image[lungs[1] & (y > 0.55)] = 0.35
    image += 0.1 * np.sin(y * 80)  # ribs
    image = ndimage.gaussian_filter(image, size / 128)
    return torch.from_numpy(image).float().clamp(-1, 1)[None, None], torch.from_numpy(lungs).float()


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a * b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(("size", "shift"), [(64, 0.0), (128, 0.05), (512, -0.04)])
def test_drawn_lungs_are_found_at_any_size_and_place_and_the_patients_right_is_at_the_images_left(
    size: int, shift: float
) -> None:
    image, truth = chest(size, shift=shift)
    lungs = Lungs()
    assert lungs.names == ["right lung", "left lung"]
    found = lungs({"image": image})[0]
    assert dice(found[0], truth[0]) > 0.85
    assert dice(found[1], truth[1]) > 0.85
    assert not (found[0] * found[1]).any()
    assert torch.equal(found, lungs({"image": torch.cat([image, image.flip(3)])})[0])


def test_a_lung_half_white_still_reaches_into_its_lower_half() -> None:
    image, truth = chest(white=True)
    lower = truth[1].clone()
    lower[:80] = 0
    found = Lungs()({"image": image})[0, 1]
    assert (found * lower).sum() > 0.5 * lower.sum()


def test_where_no_lungs_are_they_are_empty_and_their_scores_nan() -> None:
    image = torch.cat([torch.zeros(1, 1, 128, 128), chest()[0]])
    regions = LungZones(Lungs())
    maps = regions({"image": image})
    found = scores(torch.ones(2, 16, 16), maps)
    assert found.share[0, :8].isnan().all()
    assert not found.share[1].isnan().any()
    assert found.empty.tolist() == [1] * 9  # a picture without air has no outside either


def test_zones_partition_the_chest_and_are_thirds_of_each_lung() -> None:
    image, _ = chest()
    image[..., 4:9, 2:7] = 1.0  # a marker in the air
    regions = LungZones(Lungs())
    maps = dict(zip(regions.names, regions({"image": image})[0], strict=True))
    assert torch.equal(sum(maps.values()), torch.ones(128, 128))
    lungs = Lungs()({"image": image})[0]
    for side, lung in zip(("right", "left"), lungs, strict=True):
        zones = [maps[f"{side} {zone} zone"] for zone in ("upper", "middle", "lower")]
        assert torch.equal(sum(zones), lung)
        heights = [int(zone.any(1).sum()) for zone in zones]
        assert max(heights) - min(heights) <= 1
        rows = [zone.any(1).nonzero()[:, 0] for zone in zones]
        assert rows[0].max() < rows[1].min() <= rows[1].max() < rows[2].min()
    assert maps["outside body"][6, 4] == 1
    assert maps["outside body"].mean() == pytest.approx(0.16, abs=0.03)
    assert maps["between the lungs"][60, 64] == 1
    assert maps["rest of body"][124, 64] == 1


def test_zones_need_regions_named_as_lungs_and_pictures() -> None:
    with pytest.raises(ConfigError, match="right lung"):
        LungZones(Grid())
    with pytest.raises(DataError, match="pictures"):
        Lungs()({"image": torch.zeros(1, 1, 8, 8, 8)})


@pytest.mark.skipif(not REAL.is_file(), reason="needs real X-rays")
def test_real_lungs_have_plausible_areas_and_are_as_large_as_each_other() -> None:
    with np.load(REAL) as arrays:
        chosen = np.random.default_rng(3).choice(len(arrays["label"]), 20, replace=False)
        image = torch.from_numpy(arrays["images"][chosen]).float()[:, None] / 127.5 - 1
    area = Lungs()({"image": image}).mean((2, 3))
    plausible = ((area > 0.04) & (area < 0.25)).all(1) & ((area[:, 0] / area[:, 1]).log().abs() < np.log(2))
    assert plausible.float().mean() >= 0.9
