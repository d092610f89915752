"""Occlusion and the values of regions against captum, brute force and closed forms."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from attributor_promises import LABELS, SIZE, BlobDetector, Make, Promises, SmallNet, calibrated, planted, random_images
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime as CaptumLime
from captum.attr import Occlusion as CaptumOcclusion
from captum.attr import ShapleyValues
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cfxai.attribution.coalitions import REST, RegionAttributor
from cfxai.attribution.occlusion import Occlusion
from cfxai.attribution.region_ablation import RegionAblation
from cfxai.attribution.region_shapley import RegionShapley
from cfxai.attribution.surrogate import LIME, KernelSHAP
from cfxai.attribution.targets import Finding
from cfxai.errors import ConfigError


class Cells:
    """A grid of `count` cells along each axis; the last `left_out` of them are no regions."""

    def __init__(self, count: int = 2, left_out: int = 0, softness: float = 0.0) -> None:
        self.count, self.left_out, self.softness = count, left_out, softness

    @property
    def names(self) -> Sequence[str]:
        return [f"cell {i}" for i in range(self.count**2 - self.left_out)]

    def labels(self, size: torch.Size) -> Tensor:
        """[*size]: the number of the cell of the first two axes that each pixel is in."""
        rows, columns = (torch.arange(n) * self.count // n for n in size[:2])
        return (rows[:, None] * self.count + columns).view(*size[:2], *[1] * (len(size) - 2)).expand(size)

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        image = batch["image"]
        labels = self.labels(image.shape[2:])
        maps = torch.stack([labels == i for i in range(len(self.names))]).float()
        maps = (1 - self.softness) * maps + self.softness  # everywhere a little of each
        return maps.expand(len(image), *maps.shape)


OCCLUSION = {"occlusion": lambda net: Occlusion(net, window=6, stride=2)}
REGIONS = {
    "region_ablation": lambda net: RegionAblation(net, regions=Cells(8)),
    "region_shapley": lambda net: RegionShapley(net, regions=Cells(3)),
    "region_shapley, sampled": lambda net: RegionShapley(net, regions=Cells(8), permutations=4),
    "kernel_shap": lambda net: KernelSHAP(net, regions=Cells(6), samples=400),
    "lime": lambda net: LIME(net, regions=Cells(6), samples=400),
}


@pytest.mark.parametrize("make", OCCLUSION.values(), ids=OCCLUSION)
class TestOcclusion(Promises): ...


@pytest.mark.parametrize("make", REGIONS.values(), ids=REGIONS)
class TestEveryRegionAttributor(Promises):
    def test_points_at_a_planted_lesion(self, make: Make) -> None:
        """As well as regions can: the one of the largest value has a part of it."""
        image, lesion = planted()
        attributor = make(BlobDetector())
        assert isinstance(attributor, RegionAttributor)
        best = attributor.region_values(image, torch.tensor([1, 1])).argmax(1)
        regions = attributor.regions({"image": image}) > 0
        for index, truth, maps in zip(best, lesion, regions, strict=True):
            assert (maps[index] & truth).any()


def network() -> nn.Module:
    torch.manual_seed(0)
    return calibrated(SmallNet(), *SIZE)


def logits(net: nn.Module, images: Tensor, hidden: Tensor) -> Tensor:
    """[b]: of LABELS, `hidden` pixels [*spatial] black."""
    with torch.no_grad():
        return net(torch.where(hidden, -1.0, images)).gather(1, LABELS[:, None])[:, 0]


@pytest.mark.parametrize(("window", "stride", "size"), [(6, 4, SIZE), (5, 5, SIZE), (4, 3, (8, 9, 7))])
def test_occlusion_is_captums(window: int, stride: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, images = calibrated(SmallNet(len(size)), *size), random_images(size=size)
    expected = CaptumOcclusion(net).attribute(
        images, (1, *[window] * len(size)), strides=(1, *[stride] * len(size)), baselines=-1.0, target=LABELS
    )
    found = Occlusion(net, window=window, stride=stride, batch_size=7).attribute(images, LABELS)
    assert torch.allclose(found, expected[:, 0], atol=1e-5)


def test_a_window_as_large_as_the_image_hides_it_all() -> None:
    net, images = network(), random_images()
    everything = torch.ones(SIZE, dtype=torch.bool)
    drop = logits(net, images, ~everything) - logits(net, images, everything)
    found = Occlusion(net, window=100, stride=10).attribute(images, LABELS)
    assert torch.allclose(found, drop[:, None, None].expand_as(found), atol=1e-5)


def test_region_ablation_is_the_drop_without_each_region() -> None:
    net, images, cells = network(), random_images(), Cells(3, left_out=2)
    attributor = RegionAblation(net, regions=cells, batch_size=4)
    values = attributor.region_values(images, LABELS)
    labels = cells.labels(torch.Size(SIZE)).clamp_max(7)  # the last two are the rest
    nothing = torch.zeros(SIZE, dtype=torch.bool)
    for i in range(8):
        drop = logits(net, images, nothing) - logits(net, images, labels == i)
        assert torch.allclose(values[:, i], drop, atol=1e-5)
    assert attributor.names == [*cells.names, REST]
    assert values.shape == (3, 8)


EXACT = [
    lambda net, cells: RegionShapley(net, regions=cells),
    lambda net, cells: RegionShapley(net, regions=cells, exact=0, permutations=2000),
    lambda net, cells: KernelSHAP(net, regions=cells),
]


@pytest.mark.parametrize(("make", "atol"), list(zip(EXACT, [1e-6, 2e-2, 1e-6], strict=True)))
def test_shapley_values_are_the_mean_over_all_orders(make: Any, atol: float) -> None:
    net, images, cells = network(), random_images(), Cells(2, left_out=1)
    labels = cells.labels(torch.Size(SIZE))
    expected = torch.zeros(3, 4)
    orders = list(permutations(range(4)))
    for order in orders:
        for i, region in enumerate(order):
            hidden = [torch.isin(labels, torch.tensor(order[k:])) for k in (i, i + 1)]
            hidden[1] = hidden[1] & (i < 3)
            expected[:, region] += logits(net, images, hidden[1]) - logits(net, images, hidden[0])
    assert torch.allclose(make(net, cells).region_values(images, LABELS), expected / len(orders), atol=atol)


def test_shapley_values_are_captums() -> None:
    net, images, cells = network(), random_images(), Cells(2)
    labels = cells.labels(torch.Size(SIZE))
    torch.manual_seed(0)
    peer = ShapleyValues(net).attribute(images, baselines=-1.0, target=LABELS, feature_mask=labels[None, None])
    values = RegionShapley(net, regions=cells).region_values(images, LABELS)
    assert not values[:, 4].any()  # nothing is in no region
    assert torch.allclose(values[:, labels], peer[:, 0], atol=1e-5)


@settings(max_examples=20)
@given(count=st.integers(1, 5), left_out=st.integers(0, 3), softness=st.sampled_from([0.0, 0.3]))
def test_shapley_values_sum_to_what_the_image_has_over_the_baseline(count: int, left_out: int, softness: float) -> None:
    cells = Cells(count, left_out=min(left_out, count**2 - 1), softness=softness)
    net, images = network(), random_images()
    whole = torch.zeros(SIZE, dtype=torch.bool)
    difference = logits(net, images, whole) - logits(net, images, ~whole)
    for attributor in (
        RegionShapley(net, regions=cells, exact=4, permutations=4),
        KernelSHAP(net, regions=cells, samples=40),
    ):
        assert torch.allclose(attributor.region_values(images, LABELS).sum(1), difference, atol=1e-5)
        assert torch.allclose(attributor.attribute(images, LABELS).flatten(1).sum(1), difference, atol=1e-4)


class Quadratic(nn.Module):
    """The squared sum of an image: pixels interact, all alike."""

    def forward(self, image: Tensor) -> Tensor:
        return (image + 1).flatten(1).sum(1, keepdim=True).square() / 1000


def test_alike_regions_have_alike_values_and_idle_ones_none() -> None:
    image = torch.full((1, 1, 8, 8), -1.0)
    image[..., :4, :] = 0.5  # the upper two of four cells; the lower ones are as if hidden
    label = Finding(torch.tensor([0]))
    for make in EXACT:
        values = make(Quadratic(), Cells(2)).region_values(image, label)[0]
        assert torch.allclose(values[:2], torch.full((2,), 0.5 * (32 * 1.5) ** 2 / 1000), rtol=1e-4)
        assert values[2:].abs().max() < 1e-5


class Linear(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        weight = torch.linspace(-1, 1, image[0].numel()).view(image[0].shape)
        return (image * weight).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    "attributor",
    [
        RegionAblation(Linear(), regions=Cells(4)),
        RegionShapley(Linear(), regions=Cells(4), permutations=2),
        KernelSHAP(Linear(), regions=Cells(4), samples=40),
        LIME(Linear(), regions=Cells(4), ridge=1e-6, samples=100),
    ],
    ids=lambda attributor: type(attributor).__name__,
)
def test_of_a_linear_score_every_value_is_the_regions_own_sum(attributor: RegionAttributor) -> None:
    images = random_images()
    weighted = ((images + 1) * torch.linspace(-1, 1, images[0].numel()).view(images[0].shape))[:, 0]
    labels = Cells(4).labels(torch.Size(SIZE))
    expected = torch.stack([weighted[:, labels == i].sum(1) for i in range(16)], 1)
    values = attributor.region_values(images, Finding(torch.zeros(3, dtype=torch.long)))
    assert torch.allclose(values[:, :16], expected, atol=1e-2)


def test_lime_is_captums_with_its_kernel() -> None:
    """Sampled otherwise, hence many coalitions; the kernel decides what a nonlinear score's coefficients are."""
    image, cells = random_images(1), Cells(2)
    labels = cells.labels(torch.Size(SIZE))

    def kernel(_image: Tensor, _changed: Tensor, coalition: Tensor, **_: object) -> float:
        distance = 1 - float(coalition.float().mean().sqrt())
        return float(np.exp(-(distance**2) / (2 * 0.25**2)))

    torch.manual_seed(0)
    peer = CaptumLime(Quadratic(), SkLearnRidge(alpha=1.0), similarity_func=kernel).attribute(
        image, baselines=-1.0, target=0, feature_mask=labels[None, None], n_samples=600
    )
    lime = LIME(Quadratic(), regions=cells, samples=600)
    values = lime.region_values(image, Finding(torch.tensor([0])))[0]
    assert torch.allclose(values[labels], peer[0, 0], rtol=0.05)


def test_soft_regions_share_a_pixel() -> None:
    images = random_images()
    values = RegionAblation(Linear(), regions=Cells(2, softness=1.0)).region_values(
        images, Finding(torch.zeros(3, dtype=torch.long))
    )
    assert torch.allclose(values[:, :4], values[:, :1].expand(3, 4), atol=1e-3)
    assert not values[:, 4].any()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Occlusion(nn.Identity(), window=4, stride=5),
        lambda: Occlusion(nn.Identity(), window=0),
        lambda: RegionAblation(nn.Identity(), regions=Cells(), batch_size=0),
        lambda: RegionShapley(nn.Identity(), regions=Cells(), permutations=3),
        lambda: RegionShapley(nn.Identity(), regions=Cells(), exact=30),
        lambda: KernelSHAP(nn.Identity(), regions=Cells(), samples=1),
        lambda: LIME(nn.Identity(), regions=Cells(), width=0.0),
    ],
)
def test_impossible_numbers_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"=(5|0|3|30|1|0\.0)"):
        wrong()
