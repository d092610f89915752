"""CycleGAN's networks: the published sizes, images of any size, what a class is told, and where a change is allowed."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cfxai.errors import ConfigError, DataError
from cfxai.nn.generators import add_bounded
from cfxai.nn.patch_gan import PatchGAN
from cfxai.nn.per_class import PerClass
from cfxai.nn.same_conv import same_conv
from cfxai.nn.sample_norm import ScalarNorm
from cfxai.nn.translator import Translator
from cfxai.nn.translators import attention_unet, resnet, unet
from cfxai.nn.unet import UNet

SMALL: dict[str, Any] = {
    "unet": lambda **settings: unet(width=2, **settings),
    "gated": lambda **settings: unet(width=2, merge="gate", growth="transposed", norm="layer", **settings),
    "attention_unet": lambda **settings: attention_unet(widths=(2, 4, 8), **settings),
    "resnet": lambda **settings: resnet(width=2, blocks=1, **settings),
}


def stirred(network: Any) -> Any:
    """With weights other than the initial ones, which make a residual generator the identity."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 50), (1, 7, 19)])
def test_images_of_any_size(make: Any, shape: tuple[int, ...]) -> None:
    image = torch.rand(2, *shape) * 2 - 1
    changed = stirred(make(channels=shape[0]))(image)
    assert changed.shape == image.shape
    assert (changed - image).abs().max() > 0
    assert changed.abs().max() <= 1


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_volumes(make: Any) -> None:
    volume = torch.rand(1, 1, 16, 17, 16) * 2 - 1
    assert stirred(make(dims=3))(volume).shape == volume.shape


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("output", ["residual", "masked"])
def test_training_starts_from_the_identity_and_can_leave_it(make: Any, output: str) -> None:
    network, image = make(output=output), torch.rand(2, 1, 32, 32) * 2 - 1
    changed = network(image)
    assert torch.equal(changed, image)
    changed.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


class Says(nn.Module):
    """A body whose output is the same whatever it is shown."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values, self.last, self.seen = torch.tensor(values), nn.Conv2d(1, 1, 1), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.values.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


@given(h=st.floats(-5, 5), m=st.floats(-5, 5))
def test_the_output_is_the_image_a_bounded_change_or_a_masked_one(h: float, m: float) -> None:
    image, change = torch.linspace(-1, 1, 16).view(1, 1, 4, 4), torch.tensor(h).tanh()
    mask = torch.tensor(m).sigmoid()
    for output, expected in (
        ("image", change.expand_as(image)),
        ("residual", add_bounded(image, change.expand_as(image))),
        ("masked", add_bounded(image, (mask * change).expand_as(image))),
    ):
        body = Says(h, m) if output == "masked" else Says(h)
        torch.testing.assert_close(Translator(body, stride=1, output=output)(image), expected)


def test_other_sides_are_padded_by_their_border_and_cropped_where_they_were() -> None:
    body = Says(0.0)
    image = torch.arange(15.0).view(1, 1, 3, 5) / 15
    body.forward = lambda x: setattr(body, "seen", x) or x  # type: ignore[method-assign, func-returns-value]
    changed = Translator(body, stride=4, output="image")(image)
    torch.testing.assert_close(changed, image.tanh())
    assert body.seen.shape == (1, 1, 4, 8)
    assert body.seen[0, 0, 3, 2] == image[0, 0, 2, 1]


def test_classes_are_told_as_one_hot_channels() -> None:
    body = Says(0.0)
    Translator(body, stride=1, classes=3)(torch.full((2, 1, 4, 4), 0.5), torch.tensor([2, 0]))
    assert body.seen[:, :, 1, 2].tolist() == [[0.5, 0, 0, 1], [0.5, 1, 0, 0]]
    told = stirred(unet(width=2, classes=2))
    image = torch.rand(1, 1, 16, 16)
    assert not torch.equal(told(image, torch.tensor([0])), told(image, torch.tensor([1])))


def test_per_class_sends_each_image_to_its_own_network_and_back_to_its_place() -> None:
    networks = {f"times{factor}": Times(factor) for factor in (1, 10, 100)}
    image, label = torch.arange(6.0).view(6, 1, 1, 1), torch.tensor([2, 0, 1, 1, 0, 2])
    assert PerClass(**networks)(image, label).flatten().tolist() == [0, 1, 20, 30, 4, 500]
    with pytest.raises(ConfigError, match="the 3 that there are networks for"):
        PerClass(**networks)(image, label + 1)


class Times(nn.Module):
    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return image * self.factor


@given(kernel=st.integers(1, 5), side=st.integers(5, 9))
def test_same_convolutions_keep_the_sides_and_pad_as_torch_does(kernel: int, side: int) -> None:
    layers = nn.Sequential(*same_conv(1, 2, kernel))
    reference = nn.Conv2d(1, 2, kernel, padding="same")
    reference.load_state_dict(layers[-1].state_dict())
    image = torch.rand(1, 1, side, side + 1)
    torch.testing.assert_close(layers(image), reference(image))


def test_scalar_norm_by_its_formula() -> None:
    x, norm = torch.randn(3, 4, 5, 6) * 3 + 1, ScalarNorm()
    with torch.no_grad():
        norm.gain.fill_(2.0)
        norm.offset.fill_(-1.0)
    for one, found in zip(x.numpy(), norm(x).detach(), strict=True):
        expected = 2 * (one - one.mean()) / (one.std() + 1e-3) - 1
        torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("settings", "sides", "patches"),
    [
        ({"same": False}, (64, 64), (3, 3)),
        ({"same": False}, (512, 512), (31, 31)),
        ({"same": True}, (512, 512), (32, 32)),
        ({"same": True}, (100, 64), (6, 4)),
        ({"same": True, "layers": 2}, (16, 16), (4, 4)),
    ],
)
def test_verdicts_of_patches(settings: dict[str, Any], sides: tuple[int, int], patches: tuple[int, int]) -> None:
    with torch.no_grad():
        assert PatchGAN(width=2, **settings)(torch.zeros(1, 1, *sides)).shape == (1, *patches)


def test_a_verdict_for_each_class_is_picked_by_the_condition() -> None:
    network, image = PatchGAN(width=2, classes=3), torch.rand(2, 1, 32, 32)
    every = network.parts(image)
    found = network(image, torch.tensor([2, 1]))
    torch.testing.assert_close(found, torch.stack([every[0, 2], every[1, 1]]))


def test_spectral_norm_bounds_every_convolution() -> None:
    network = PatchGAN(width=4, layers=2, spectral=True).train()
    for _ in range(50):
        network(torch.rand(1, 1, 16, 16))
    convolutions = [part for part in network.parts if isinstance(part, nn.Conv2d)]
    largest = [torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() for part in convolutions]
    assert largest == pytest.approx([1.0] * 3, abs=0.02)


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(DataError, match=r"at least 32 pixels.*layers"):
        PatchGAN(width=2, same=False)(torch.zeros(1, 1, 24, 24))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unet(output="picture"), r"generator\.output: .*masked"),
        (lambda: UNet(1, 1, merge="add"), r"generator\.merge: .*gate"),
        (lambda: UNet(1, 1, growth="bilinear"), r"generator\.growth: .*resize"),
        (lambda: unet(norm="batch"), r"norm: .*instance"),
    ],
)
def test_unknown_forms_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
