"""RISE, Score-CAM and LayerCAM against slow references, and what every attributor promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from cfxai.attribution.cam import LayerCAM, ScoreCAM
from cfxai.attribution.rise import RISE
from cfxai.errors import ConfigError
from cfxai.nn.memory_format import channels_last
from cfxai.protocols import Attributor

ATTRIBUTORS = {
    "layer_cam": LayerCAM,
    "score_cam": ScoreCAM,
    "rise": lambda classifier: RISE(classifier, masks=300, cells=6),
}


class SmallNet(nn.Module):
    """Random convolutions with everything that could be disturbed: batch norm, dropout, in-place ReLU."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        pool = nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d
        self.stem = nn.Sequential(conv(1, 6, 3, stride=2, padding=1), norm(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(conv(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.pool, self.head = pool(1), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(image))).flatten(1))


class BlobDetector(nn.Module):
    """A known detector: class 1 is the mean excess of brightness, smoothed over 5 x 5 pixels, above mid-grey."""

    def __init__(self) -> None:
        super().__init__()
        self.excess = nn.Sequential(nn.AvgPool2d(5, stride=2, padding=2), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        score = 400 * self.excess(image).flatten(1).mean(1)
        return torch.stack([torch.zeros_like(score), score - 3], 1)


@pytest.fixture
def network() -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet().train()
    net(torch.rand(16, 1, 24, 24) * 2 - 1)  # batch-norm statistics that are not the initial ones
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 24, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1


TARGET = torch.tensor([0, 2, 1])


def test_layer_cam_is_captums_gradient_times_activation(network: SmallNet, images: Tensor) -> None:
    activation = network.body(network.stem(images)).detach()
    # Grad-CAM with the spatial mean of gradients undone: captum's gradients, through its own hooks.
    forward = LayerGradCam(network, network.body)
    gradient = torch.autograd.grad(
        network.head((leaf := activation.clone().requires_grad_()).mean((2, 3))).gather(1, TARGET[:, None]).sum(),
        leaf,
    )[0]
    per_channel = forward.attribute(images, target=TARGET, attr_dim_summation=False).detach()
    assert torch.allclose(per_channel, gradient.mean((2, 3), keepdim=True) * activation, atol=1e-6)

    expected = (gradient.clamp_min(0) * activation).sum(1, keepdim=True).clamp_min(0)
    expected = F.interpolate(expected, size=images.shape[2:], mode="bilinear")[:, 0]
    assert torch.allclose(LayerCAM(network).attribute(images, TARGET), expected, atol=1e-6)


def test_score_cam_is_the_slow_loop(network: SmallNet, images: Tensor) -> None:
    expected = []
    with torch.no_grad():
        maps = network.body(network.stem(images))
        for image, channels, target in zip(images, maps, TARGET, strict=True):
            kept, logits = [], []
            for channel in channels:
                if channel.max() == channel.min():
                    continue
                window = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear")[0]
                window = (window - window.min()) / (window.max() - window.min())
                kept.append(channel)
                logits.append(float(network((-0.5 + window * (image + 0.5))[None])[0, target]))
            increase = np.array(logits) - float(network(torch.full_like(image, -0.5)[None])[0, target])
            weights = np.exp(increase) / np.exp(increase).sum()
            cam = sum(w * k for w, k in zip(weights, kept, strict=True)).clamp_min(0)
            expected.append(F.interpolate(cam[None, None], size=image.shape[1:], mode="bilinear")[0, 0])
    found = ScoreCAM(network, baseline=-0.5, batch_size=3).attribute(images, TARGET)
    assert torch.allclose(found, torch.stack(expected).float(), atol=1e-6)


def test_score_cam_of_flat_maps_is_zero(network: SmallNet, images: Tensor) -> None:
    nn.init.zeros_(network.body[0].weight)
    assert not ScoreCAM(network).attribute(images, TARGET).any()


def test_rise_is_the_slow_loop_over_its_masks(network: SmallNet, images: Tensor) -> None:
    rise = RISE(network, masks=37, cells=5, baseline=-1.0, batch_size=16)
    masks = torch.cat(list(rise.occlusions(images.shape[2:]))).numpy()
    expected = np.zeros((3, 24, 20))
    for n in range(3):
        for mask in masks:
            seen = images[n].numpy() * mask + -1.0 * (1 - mask)
            with torch.no_grad():
                probability = network(torch.from_numpy(seen)[None]).softmax(1)[0, TARGET[n]].item()
            expected[n] += probability * mask
    expected /= masks.sum(0)
    np.testing.assert_allclose(rise.attribute(images, TARGET).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(24, 20), (7, 9), (12, 10, 8)])
def test_rise_masks_are_shifted_upsampled_grids(size: tuple[int, ...]) -> None:
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


def test_rise_covers_pixels_evenly_with_the_probability_asked() -> None:
    masks = torch.cat(list(RISE(nn.Identity(), masks=4000, keep=0.2).occlusions(torch.Size((32, 32)))))
    assert masks.mean(0).sub(0.2).abs().max() < 0.03


def test_rise_of_a_classifier_that_ignores_its_input_is_constant() -> None:
    class Blind(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.tensor([0.3, 0.9]).expand(len(image), 2)

    saliency = RISE(Blind(), masks=50).attribute(torch.zeros(1, 1, 16, 16), torch.tensor([1]))
    assert torch.allclose(saliency, torch.full_like(saliency, torch.tensor([0.3, 0.9]).softmax(0)[1].item()))


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_points_at_a_planted_lesion(name: str) -> None:
    image = torch.full((2, 1, 48, 48), -0.4)
    image[0, :, 10:16, 30:36] = 0.9
    image[1, :, 34:40, 8:14] = 0.9
    attributor = ATTRIBUTORS[name](BlobDetector())
    saliency = attributor.attribute(image, torch.tensor([1, 1]))
    lesion = image[:, 0] > 0
    for one, truth in zip(saliency, lesion, strict=True):
        assert truth[tuple(int(i) for i in (one == one.max()).nonzero()[0])]
        assert one[truth].mean() > 1.2 * one[~truth].mean()


def test_points_away_from_the_lesion_for_the_normal_class() -> None:
    image = torch.full((1, 1, 48, 48), -0.4)
    image[:, :, 10:16, 30:36] = 0.9
    saliency = RISE(BlobDetector(), masks=300, cells=6).attribute(image, torch.tensor([0]))[0]
    assert saliency[10:16, 30:36].mean() < saliency.mean()


@pytest.mark.parametrize("name", ATTRIBUTORS)
class TestEveryAttributor:
    def test_keeps_the_promise(self, name: str, network: SmallNet, images: Tensor) -> None:
        attributor = ATTRIBUTORS[name](network)
        assert isinstance(attributor, Attributor)
        saliency = attributor.attribute(images, TARGET)
        assert saliency.shape == (3, 24, 20)
        assert saliency.min() >= 0
        assert saliency.isfinite().all()
        assert not saliency.requires_grad

    def test_gives_an_image_the_same_map_alone_and_in_a_batch(
        self, name: str, network: SmallNet, images: Tensor
    ) -> None:
        together = ATTRIBUTORS[name](network).attribute(images, TARGET)
        for i in range(3):
            alone = ATTRIBUTORS[name](network).attribute(images[i : i + 1], TARGET[i : i + 1])
            assert torch.allclose(together[i], alone[0], rtol=1e-4, atol=1e-6)

    def test_leaves_the_classifier_as_it_was(self, name: str, network: SmallNet, images: Tensor) -> None:
        network.train()
        network.body[2].eval()
        network.head.bias.requires_grad_(False)
        network.head.weight.grad = torch.ones_like(network.head.weight)
        state = {k: v.clone() for k, v in network.state_dict().items()}
        storage = [p.data_ptr() for p in network.parameters()]
        modes = [m.training for m in network.modules()]
        flags = [p.requires_grad for p in network.parameters()]

        ATTRIBUTORS[name](network).attribute(images, TARGET)

        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert storage == [p.data_ptr() for p in network.parameters()]
        assert modes == [m.training for m in network.modules()]
        assert flags == [p.requires_grad for p in network.parameters()]
        assert torch.equal(network.head.weight.grad, torch.ones(3, 8))
        assert all(p.grad is None for p in network.parameters() if p is not network.head.weight)
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_manages_its_own_gradients(self, name: str, mode: type, network: SmallNet, images: Tensor) -> None:
        expected = ATTRIBUTORS[name](network).attribute(images, TARGET)
        with mode():
            found = ATTRIBUTORS[name](network).attribute(images * 1, TARGET * 1)
        assert torch.allclose(found, expected, atol=1e-6)
        assert network.head.weight.data.is_inference() is False

    def test_explains_volumes(self, name: str) -> None:
        torch.manual_seed(0)
        volumes = torch.rand(2, 1, 12, 16, 8)
        saliency = ATTRIBUTORS[name](SmallNet(dims=3)).attribute(volumes, torch.tensor([0, 1]))
        assert saliency.shape == (2, 12, 16, 8)
        assert saliency.max() > 0


def test_the_last_layer_with_positions_is_found(network: SmallNet, images: Tensor) -> None:
    found = LayerCAM(network)
    found.attribute(images, TARGET)
    assert found.layer.name == "body"
    earlier = LayerCAM(network, layer="stem.0").attribute(images, TARGET)
    assert not torch.allclose(earlier, found.attribute(images, TARGET))


@pytest.mark.parametrize("layer", ["bdy", "head", "pool"])
def test_a_layer_without_maps_is_refused_by_name(layer: str, network: SmallNet, images: Tensor) -> None:
    with pytest.raises(ConfigError, match=rf"'{layer}' is not a layer .* stem.0, .* body"):
        LayerCAM(network, layer=layer).attribute(images, TARGET)


@pytest.mark.parametrize("channels_at_the_end", [True, False])
def test_transformers_are_refused_with_the_way_out(channels_at_the_end: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.mix, self.head = nn.Conv2d(1, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, image: Tensor) -> Tensor:
            patches = self.patches(image).permute(0, 2, 3, 1)  # [b h w c], as Swin; flattened, as ViT
            tokens = self.mix(patches if channels_at_the_end else patches.flatten(1, 2))
            return self.head(tokens.flatten(1, -2).mean(1))

    image, target = torch.rand(1, 1, 32, 32), torch.tensor([1])
    for attributor in (LayerCAM(Tokens()), ScoreCAM(Tokens())):
        with pytest.raises(ConfigError, match="rise"):
            attributor.attribute(image, target)
    assert RISE(Tokens(), masks=8).attribute(image, target).shape == (1, 32, 32)


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 1.0}, {"masks": 0}, {"cells": 0}, {"batch_size": 0}])
def test_rise_refuses_impossible_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RISE(nn.Identity(), **wrong)


def test_channels_last_is_undone_after_an_error(network: SmallNet) -> None:
    weight = network.body[0].weight
    storage = weight.data_ptr()

    def fail_inside() -> None:
        with channels_last(network):
            assert weight.is_contiguous(memory_format=torch.channels_last)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert weight.data_ptr() == storage
