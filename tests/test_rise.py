"""RISE against a slow loop over its masks, its masks against resampled grids, and how soon its map settles."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attributor_promises import LABELS, SIZE, BlobDetector, Promises, SmallNet, calibrated, planted, random_images
from torch import Tensor, nn

from cfxai.attribution.rise import RISE
from cfxai.attribution.targets import Contrast, Finding
from cfxai.errors import ConfigError

ATTRIBUTORS = {
    "rise": lambda classifier: RISE(classifier, masks=300, cells=6),
    "rise in pairs": lambda classifier: RISE(classifier, masks=300, cells=6, antithetic=True),
    "rise until settled": lambda classifier: RISE(classifier, masks=300, cells=6, tolerance=0.5, batch_size=50),
}


@pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
class TestEveryAttributor(Promises): ...


def network() -> nn.Module:
    torch.manual_seed(0)
    return calibrated(SmallNet(), *SIZE)


class Counting(BlobDetector):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, image: Tensor) -> Tensor:
        self.images += len(image)
        return super().forward(image)


@pytest.mark.parametrize("antithetic", [False, True])
def test_is_the_slow_loop_over_its_masks(antithetic: bool) -> None:
    net, images = network(), random_images()
    rise = RISE(net, masks=38, cells=5, baseline=-1.0, batch_size=16, antithetic=antithetic)
    masks = torch.cat(list(rise.occlusions(images.shape[2:]))).numpy()
    assert len(masks) == 38
    expected = np.zeros((3, *SIZE))
    for n in range(3):
        for mask in masks:
            seen = images[n].numpy() * mask + -1.0 * (1 - mask)
            with torch.no_grad():
                probability = net(torch.from_numpy(seen)[None]).softmax(1)[0, LABELS[n]].item()
            expected[n] += probability * mask
    expected /= masks.sum(0)
    np.testing.assert_allclose(rise.attribute(images, LABELS).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(24, 20), (7, 9), (12, 10, 8)])
def test_masks_are_shifted_upsampled_grids(size: tuple[int, ...]) -> None:
    rise = RISE(nn.Identity(), masks=3, cells=4, seed=5)
    (masks,) = rise.occlusions(torch.Size(size))
    random = torch.Generator().manual_seed(5)
    grids = (torch.rand((3, *[4] * len(size)), generator=random) < 0.5).float()
    cell = [-(-length // 4) for length in size]
    shifts = [torch.randint(c, (3, 1), generator=random)[:, 0].tolist() for c in cell]
    large = F.interpolate(grids[:, None], size=[5 * c for c in cell], mode=("bilinear", "trilinear")[len(size) - 2])
    for i in range(3):
        crop = tuple(slice(s[i], s[i] + length) for s, length in zip(shifts, size, strict=True))
        assert torch.allclose(masks[i], large[i, 0][crop], atol=1e-6)


def test_covers_pixels_evenly_with_the_probability_asked() -> None:
    masks = torch.cat(list(RISE(nn.Identity(), masks=4000, keep=0.2).occlusions(torch.Size((32, 32)))))
    assert masks.mean(0).sub(0.2).abs().max() < 0.03


def test_pairs_show_and_hide_the_same() -> None:
    rise = RISE(nn.Identity(), masks=20, antithetic=True, batch_size=6)
    for masks in rise.occlusions(torch.Size((9, 7))):
        assert torch.allclose(masks[::2] + masks[1::2], torch.ones(9, 7))


def test_pairs_have_the_same_expectation() -> None:
    image, label = planted()[0][:1], torch.tensor([1])
    single, pairs = (
        RISE(BlobDetector(), masks=6000, cells=6, antithetic=antithetic).attribute(image, label)
        for antithetic in (False, True)
    )
    assert (single - pairs).square().mean().sqrt() < 0.3 * single.std()


def test_of_a_classifier_that_ignores_its_input_is_constant() -> None:
    class Blind(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.tensor([0.3, 0.9]).expand(len(image), 2)

    saliency = RISE(Blind(), masks=50).attribute(torch.zeros(1, 1, 16, 16), torch.tensor([1]))
    assert torch.allclose(saliency, torch.full_like(saliency, torch.tensor([0.3, 0.9]).softmax(0)[1].item()))


def test_points_away_from_the_lesion_for_the_normal_class() -> None:
    image, lesion = planted()
    saliency = RISE(BlobDetector(), masks=300, cells=6).attribute(image, torch.tensor([0, 0]))
    assert saliency[lesion].mean() < saliency.mean()


def test_averages_the_probability_of_any_target() -> None:
    net, images = network(), random_images()
    contrast = RISE(net, masks=64).attribute(images, Contrast(2, 1))
    assert contrast.min() > 0
    assert torch.allclose(contrast + RISE(net, masks=64).attribute(images, Contrast(1, 2)), torch.ones(()), atol=1e-5)
    assert not torch.allclose(RISE(net, masks=64).attribute(images, Finding(LABELS)), contrast)


def test_stops_once_the_map_is_known_as_well_as_asked() -> None:
    image, label = planted()[0][:1], torch.tensor([1])
    passes = {}
    for tolerance in (1.0, 0.3, 1e-6):
        counting = Counting()
        RISE(counting, masks=2000, cells=6, tolerance=tolerance, batch_size=50).attribute(image, label)
        passes[tolerance] = counting.images
    assert passes[1.0] < passes[0.3] < passes[1e-6]
    assert passes[1e-6] >= 2000


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_error_it_stops_at_is_that_of_repeated_runs(antithetic: bool) -> None:
    """Maps from different seeds scatter as much as the tolerance at which they stopped says."""
    image, label = planted()[0][:1], torch.tensor([1])
    options = {"cells": 6, "antithetic": antithetic, "tolerance": 0.5, "batch_size": 20, "masks": 2000}
    maps = torch.stack([RISE(BlobDetector(), seed=s, **options).attribute(image, label)[0] for s in range(16)])
    scatter = maps.var(0).mean().sqrt() / maps.mean(0).std()
    assert 0.3 < scatter < 0.6


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0.0}, {"keep": 1.0}, {"masks": 0}, {"cells": 0}, {"batch_size": 0}, {"tolerance": 0.0},
        {"masks": 31, "antithetic": True}, {"keep": 0.4, "antithetic": True}, {"batch_size": 3, "antithetic": True},
    ],
)  # fmt: skip
def test_refuses_impossible_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RISE(nn.Identity(), **wrong)
