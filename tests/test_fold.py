"""Batch norms folded into convolutions: the same output in fewer layers, or nothing changed."""

import pytest
import timm
import torch
from attributor_promises import SIZE, SmallNet, calibrated, everything, random_images
from torch import Tensor, nn
from torchvision.models import densenet121

from cfxai.nn.classifiers import compact
from cfxai.nn.fold import fast_inference, folded
from cfxai.nn.memory_format import channels_last


def calibrated_on(network: nn.Module, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in network.modules())


NETWORKS = {
    "ours": (lambda: compact(widths=(8, 16)), 1, 9, 0.4),  # its norms come before convolutions, half of them also after
    "timm resnet18": (lambda: timm.create_model("resnet18", in_chans=1, num_classes=2), 1, 20, 1.0),
    "timm efficientnet": (lambda: timm.create_model("efficientnet_b0", in_chans=1, num_classes=2), 1, 49, 1.0),
    "torchvision densenet": (lambda: densenet121(num_classes=2), 3, 121, 0.4),
    "volumes": (lambda: SmallNet(dims=3), 1, 1, 1.0),
}


@pytest.mark.parametrize(("make", "channels", "before", "share"), NETWORKS.values(), ids=NETWORKS)
def test_computes_the_same_with_fewer_norms(make: object, channels: int, before: int, share: float) -> None:
    size = (8, 32, 32) if before == 1 else (32, 32)
    torch.manual_seed(0)
    images = torch.rand(4, channels, *size) * 2 - 1
    network = calibrated_on(make(), images)  # type: ignore[operator]
    copy = folded(network, images)
    assert copy is not network
    with torch.no_grad():
        expected, found = network(images), copy(images)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
    assert norms(network) == before
    assert norms(copy) <= before * (1 - share) + 1


def test_follows_the_weights_and_leaves_the_network_as_it_was() -> None:
    network, images = calibrated(SmallNet(), *SIZE).train(), random_images()
    state = everything(network)
    with fast_inference(network, images, passes=1000) as fast:
        first = fast(images)
    assert everything(network) == state
    with torch.no_grad():
        network.stem[1].weight *= 3
    with fast_inference(network, images, passes=1000) as fast:
        second = fast(images)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        assert torch.allclose(second, network.eval()(images), atol=1e-5)


def test_features_of_grey_images_are_channels_last_too() -> None:
    """They lie in memory as either layout has them; in the standard one, which torch guesses, max pooling is slow."""
    network, images = timm.create_model("resnet18", in_chans=1, num_classes=2).eval(), random_images()
    layouts: list[bool] = []

    def look(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))

    network.maxpool.register_forward_pre_hook(look)
    with torch.no_grad():
        expected = network(images)
    assert not layouts[-1]
    for passes in (1, 1000):
        with fast_inference(network, images, passes) as fast:
            assert torch.allclose(fast(images), expected, atol=1e-5)
        assert layouts[-1]


class ReadTwice(nn.Sequential):
    """What the convolution returns is also used without the norm."""

    def forward(self, image: Tensor) -> Tensor:
        early = self[0](image)
        return (self[1](early) + early).mean((2, 3))


class Standardised(nn.Conv2d):
    """A convolution that is more than its weights say."""

    def forward(self, image: Tensor) -> Tensor:
        return self._conv_forward(image, self.weight / self.weight.std(), self.bias)


class Between(nn.Sequential):
    """Something in place happens between convolution and norm."""

    def forward(self, image: Tensor) -> Tensor:
        return self[1](self[0](image).abs_()).mean((2, 3))


class NotCopyable(SmallNet):
    def __deepcopy__(self, memo: dict) -> nn.Module:
        raise RuntimeError("holds a graph")


NOT_FOLDED = {
    "read twice": ReadTwice(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
    "changed between": Between(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
    "not plain": nn.Sequential(Standardised(1, 4, 3), nn.BatchNorm2d(4)),
    "not copyable": NotCopyable(),
    "no norms": nn.Sequential(nn.Conv2d(1, 4, 3)),
}


@pytest.mark.parametrize("network", NOT_FOLDED.values(), ids=NOT_FOLDED)
def test_what_cannot_be_folded_is_used_as_it_is(network: nn.Module) -> None:
    network = calibrated(network, *SIZE)
    assert folded(network, random_images()) is network


def test_channels_last_is_undone_after_an_error() -> None:
    network = SmallNet()
    weight = network.body[0].weight
    storage = weight.data_ptr()

    def fail_inside() -> None:
        with channels_last(network):
            assert weight.is_contiguous(memory_format=torch.channels_last)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert weight.data_ptr() == storage
