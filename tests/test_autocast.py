"""Saliency under a caller's autocast: the network computes in 16 bits, what is made of its outputs does not."""

import pytest
import torch
from attributor_promises import SIZE, BlobDetector, SmallNet, calibrated, planted, random_images
from torch import nn

from cfxai.attribution.cam import GradCAM
from cfxai.attribution.occlusion import Occlusion
from cfxai.attribution.rise import RISE
from cfxai.attribution.score_cam import ScoreCAM
from cfxai.nn.fold import fast_inference

LABEL = torch.tensor([1, 1])


@pytest.mark.parametrize("make", [lambda net: RISE(net, masks=64, batch_size=16), lambda net: Occlusion(net)])
def test_sums_over_passes_keep_their_digits(make: object) -> None:
    image, _ = planted()
    detector = BlobDetector()  # has no convolution: autocast leaves its own arithmetic alone
    expected = make(detector).attribute(image, LABEL)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        found = make(detector).attribute(image, LABEL)  # type: ignore[operator]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("attributor", [GradCAM, ScoreCAM])
def test_a_map_in_16_bits_is_nearly_that_in_32(attributor: type) -> None:
    torch.manual_seed(0)
    network, images = calibrated(SmallNet(), *SIZE), random_images()
    target = torch.tensor([0, 2, 1])
    expected = attributor(network).attribute(images, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = attributor(network).attribute(images, target)
    assert not torch.equal(found, expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.99


def test_norms_are_folded_and_the_network_computes_in_16_bits() -> None:
    network, images = calibrated(SmallNet(), *SIZE), random_images()
    seen: list[torch.dtype] = []
    network.stem[0].register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16), fast_inference(network, images, passes=1000) as fast:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        seen.clear()
        assert fast(images).dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16]
