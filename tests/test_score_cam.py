"""Score-CAM and Ablation-CAM, which look at the score for each map, against slow loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attributor_promises import LABELS, SIZE, Promises, SmallNet, calibrated, random_images
from torch import Tensor, nn

from cfxai.attribution.ablation_cam import AblationCAM
from cfxai.attribution.score_cam import ScoreCAM
from cfxai.attribution.targets import Contrast
from cfxai.errors import ConfigError

ATTRIBUTORS = {"score_cam": ScoreCAM, "ablation_cam": AblationCAM}


@pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
class TestEveryAttributor(Promises): ...


class MLPHead(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class Bypass(SmallNet):
    """What comes before the layer is concatenated to what comes after it."""

    def forward(self, image: Tensor) -> Tensor:
        early = self.stem(image)
        return self.head(torch.cat([self.pool(self.body(early))[:, :2], self.pool(early)], 1).flatten(1))


def network(make: type[SmallNet] = SmallNet) -> SmallNet:
    torch.manual_seed(0)
    net = calibrated(make(), *SIZE)
    assert isinstance(net, SmallNet)
    return net


def score_cam_by_loop(net: SmallNet, images: Tensor, channels: int | None = None) -> Tensor:
    """The paper's algorithm 1, one channel of one image at a time, hidden pixels -0.5."""
    expected = []
    with torch.no_grad():
        maps = net.body(net.stem(images))
        for image, all_channels, target in zip(images, maps, LABELS, strict=True):
            order = all_channels.flatten(1).std(1).argsort(descending=True)
            kept, logits = [], []
            for channel in all_channels[order[:channels]]:
                if channel.max() == channel.min():
                    continue
                window = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear")[0]
                window = (window - window.min()) / (window.max() - window.min())
                kept.append(channel)
                logits.append(float(net((-0.5 + window * (image + 0.5))[None])[0, target]))
            increase = np.array(logits) - float(net(torch.full_like(image, -0.5)[None])[0, target])
            weights = np.exp(increase) / np.exp(increase).sum()
            cam = sum(w * k for w, k in zip(weights, kept, strict=True))
            expected.append(F.interpolate(cam[None, None], size=image.shape[1:], mode="bilinear")[0, 0])
    return torch.stack(expected).float()


@pytest.mark.parametrize("channels", [None, 3])
def test_score_cam_is_the_slow_loop(channels: int | None) -> None:
    net, images = network(), random_images()
    found = ScoreCAM(net, channels=channels, baseline=-0.5, batch_size=3).attribute(images, LABELS)
    assert torch.allclose(found, score_cam_by_loop(net, images, channels), atol=1e-6)


def test_score_cam_of_flat_maps_is_zero() -> None:
    net = network()
    nn.init.zeros_(net.body[0].weight)
    assert not ScoreCAM(net).attribute(random_images(), LABELS).any()


@pytest.mark.parametrize("make", [SmallNet, MLPHead, Bypass])
def test_ablation_cam_is_the_slow_loop_whatever_the_head(make: type[SmallNet]) -> None:
    """Linear heads need no passes, others pass through the head, and where the layer is bypassed through everything."""
    net, images = network(make), random_images()
    expected, handle, lost = [], None, 0

    def lose(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return output * (torch.arange(8) != lost).view(1, 8, 1, 1)

    with torch.no_grad():
        maps, score = net.body(net.stem(images)), net(images).gather(1, LABELS[:, None])
        drops = []
        handle = net.body.register_forward_hook(lose)
        for channel in range(8):
            lost = channel
            drops.append(score - net(images).gather(1, LABELS[:, None]))
        handle.remove()
        expected = torch.einsum("bk,bkhw->bhw", torch.cat(drops, 1), maps)
    expected = F.interpolate(expected[:, None], size=SIZE, mode="bilinear")[:, 0]
    found = AblationCAM(net, layer="body", batch_size=3).attribute(images, LABELS)
    assert torch.allclose(found, expected, atol=1e-6)


def test_ablation_cam_of_a_linear_head_takes_the_passes_of_a_gradient() -> None:
    passes = 0

    class Counting(SmallNet):
        def forward(self, image: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            return super().forward(image)

    attributor = AblationCAM(network(Counting))
    attributor.attribute(random_images(), LABELS)
    passes = 0
    attributor.attribute(random_images(), LABELS)
    assert passes <= 2  # one for all images, one to see that the head is linear


def test_a_negative_score_does_not_turn_ablation_cam_upside_down() -> None:
    net, images = network(), random_images()
    ahead, behind = (AblationCAM(net).attribute(images, Contrast(a, 2 - a)) for a in (0, 2))
    assert torch.allclose(ahead, -behind, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"batch_size": 0}])
def test_score_cam_refuses_impossible_numbers(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ScoreCAM(nn.Identity(), **wrong)
