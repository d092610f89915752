"""What makes the published COIN networks cheap changes nothing: each shortcut against the plain layers it replaces."""

import platform
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cfxai.nn.aligned_conv import AlignedConv2d, strided_channels_last
from cfxai.nn.coin2024 import DecoderBlock, Discriminator, DiscriminatorBlock, EncoderBlock, Generator
from cfxai.nn.eager import eager
from cfxai.nn.norm_relu_conv import norm_relu_conv
from cfxai.nn.resampled_conv import FEWEST_POSITIONS, PooledConv2d, combines, grown_kernel

CHANNELS_LAST = torch.channels_last
ENOUGH = 32  # pixels a side, at which one image already has the positions that shortcuts want


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def features(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gradients(outputs: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a random linear function of the outputs, the same one each time."""
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs)
    return list(torch.autograd.grad(outputs, inputs, direction))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    last=st.booleans(),
)
def test_a_transposed_convolution_repeats_pixels_and_convolves(
    height: int, width: int, inputs: int, outputs: int, last: bool
) -> None:
    x, weight = features(2, inputs, height, width), features(outputs, inputs, 3, 3)
    laid = weight.contiguous(memory_format=CHANNELS_LAST) if last else weight
    found = F.conv_transpose2d(x, grown_kernel(laid), stride=2, padding=1)
    expected = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, padding=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, [x, weight]), gradients(expected, [x, weight]))


@pytest.mark.parametrize("side", [6, ENOUGH])
def test_a_pooled_convolution_convolves_and_averages(side: int) -> None:
    layer, x = PooledConv2d(3, 5).double(), features(1, 3, side, side)
    assert combines(x) == (side == ENOUGH)
    expected = F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)
    torch.testing.assert_close(layer(x), expected)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(gradients(layer(x), inputs), gradients(expected, inputs))


def test_a_pooled_convolution_drops_odd_borders_as_pooling_does() -> None:
    layer, x = PooledConv2d(1, 1).double(), features(1, 1, ENOUGH + 1, 2 * ENOUGH + 1)
    assert x.numel() > FEWEST_POSITIONS
    torch.testing.assert_close(layer(x), F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2))


RESAMPLES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "pool": nn.AvgPool2d(2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
}


def plain(
    x: Tensor, norm: nn.BatchNorm2d, scale: Tensor, shift: Tensor, weight: Tensor, resample: str, transposed: bool
) -> Tensor:
    active = F.relu(scale[:, :, None, None] * norm(x) + shift[:, :, None, None])
    active = (RESAMPLES[resample] or nn.Identity())(active)
    return (
        F.conv_transpose2d(active, weight, stride=2, padding=1) if transposed else F.conv2d(active, weight, padding=1)
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize(
    ("resample", "transposed"), [("none", False), ("pool", False), ("bilinear", False), ("none", True)]
)
def test_the_fused_step_is_the_layers_one_after_another(
    training: bool, samples: int, resample: str, transposed: bool
) -> None:
    x, scale, shift = features(4, 3, 6, 8), features(samples, 3), features(samples, 3)
    weight = features(3, 5, 4, 4) if transposed else features(5, 3, 3, 3)
    norms = [nn.BatchNorm2d(3, affine=False).double().train(training) for _ in range(2)]
    for norm in norms:
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(2.0)
    expected = plain(x, norms[0], scale, shift, weight, resample, transposed)
    found = norm_relu_conv(x, norms[1], scale, shift, weight, resample=RESAMPLES[resample], transposed=transposed)
    torch.testing.assert_close(found, expected)
    inputs = [x, scale, shift, weight]
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))
    assert norms[1].state_dict().keys() == norms[0].state_dict().keys()
    torch.testing.assert_close(norms[1].state_dict(), norms[0].state_dict())


def test_float32_gradients_stand_a_mean_far_from_zero() -> None:
    """Ten standard deviations: within 1e-4 of float64."""
    norm, doubles = nn.BatchNorm2d(3, affine=False), [features(4, 3, 16, 16), features(1, 3), features(1, 3)]
    doubles.append(features(5, 3, 3, 3))
    singles = [value.detach().float().requires_grad_() for value in doubles]
    expected = gradients(norm_relu_conv(doubles[0] + 10, norm.double(), *doubles[1:]), doubles)
    found = gradients(norm_relu_conv(singles[0] + 10, norm.float(), *singles[1:]), singles)
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 1e-4


def test_the_fused_step_keeps_nothing_of_its_inputs_size_but_its_input() -> None:
    kept: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    x, norm, one = features(2, 4, 16, 16), nn.BatchNorm2d(4, affine=False).double(), features(1, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        norm_relu_conv(x, norm, one, one, features(4, 4, 3, 3))
    assert [value.data_ptr() for value in kept if value.numel() >= x.numel()] == [x.data_ptr()]


def test_under_autocast_the_fused_step_is_as_exact_as_the_layers() -> None:
    norm = nn.BatchNorm2d(8, affine=False)
    inputs = [features(4, 8, 16, 16), features(4, 8), features(4, 8), features(8, 8, 4, 4)]
    inputs = [value.detach().float().requires_grad_() for value in inputs]
    x, scale, shift, kernel = inputs

    def layers() -> Tensor:
        return plain(x, norm, scale, shift, kernel, "none", True)

    exact = gradients(layers(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layers(), norm_relu_conv(x, norm, scale, shift, kernel, transposed=True)
    assert outputs[1].dtype == torch.bfloat16
    for value, by_layers, fused in zip(exact, *(gradients(output, inputs) for output in outputs), strict=True):
        assert fused.dtype == value.dtype
        assert (fused - value).norm() < 1.2 * (by_layers - value).norm() + 1e-6


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_a_decoder_block_grows_before_it_convolves(side: int, upsample: str) -> None:
    block, x = DecoderBlock(6, 4, 2, upsample, spectral=False).double(), features(4, 6, side, side)
    condition = torch.tensor([0, 1, 1, 0])

    def published() -> Tensor:
        h = block.conv1(block.grow(F.relu(block.norm1(x, condition))))
        return block.shortcut(block.grow(x)) + block.conv2(F.relu(block.norm2(h, condition)))

    inputs = [x, *block.parameters()]
    expected, found = published(), block(x, condition)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))


def test_an_encoder_block_is_its_shortcut_and_its_body() -> None:
    block, x = EncoderBlock(3, 5, spectral=False).double(), features(4, 3, 8, 8)
    inputs = [x, *block.parameters()]
    expected, found = block.shortcut(x) + block.body(x), block(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))


def test_a_discriminator_block_pools_after_it_convolves() -> None:
    block, x = DiscriminatorBlock(3, 5, first=False, halve=True).double().eval(), features(1, 3, ENOUGH, ENOUGH)
    first, second = block.body[1], block.body[3]
    h = F.conv2d(F.relu(x), first.weight, first.bias, padding=1)
    h = F.conv2d(F.relu(h), second.weight, second.bias, padding=1)
    expected = F.avg_pool2d(block.shortcut(x) + h, 2)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [(2,), (3, 1), (1, 2, 2)])
def test_batches_judged_together_are_judged_as_one_after_another(sizes: tuple[int, ...], training: bool) -> None:
    """Also by the singular values, which move from each batch to the next."""
    networks = [Discriminator(width=0.1).double().train(training) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    batches = [(images(size, 1, ENOUGH, 2 * ENOUGH) / (i + 1), torch.arange(size) % 2) for i, size in enumerate(sizes)]
    expected, found = [networks[0](*batch) for batch in batches], networks[1].each(batches)
    torch.testing.assert_close(found, expected)
    learned = [
        gradients(torch.cat(logits), list(network.parameters()))
        for logits, network in zip((expected, found), networks, strict=True)
    ]
    torch.testing.assert_close(*learned)
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict())


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("side", [1, 4, ENOUGH])
def test_a_pointwise_convolution_is_torchs(side: int, layout: torch.memory_format) -> None:
    layer, x = AlignedConv2d(3, 5, 1).double(), features(2, 3, side, side)
    layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
    expected = F.conv2d(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(gradients(layer(x), inputs), gradients(expected, inputs))


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_convolved_from_an_image_is_channels_last(channels: int) -> None:
    image = images(2, channels, 8, 6)
    laid = strided_channels_last(image)
    assert torch.equal(laid, image)
    weight = torch.randn(3, channels, 3, 3, dtype=torch.float64).contiguous(memory_format=CHANNELS_LAST)
    assert F.conv2d(laid, weight, padding=1).is_contiguous(memory_format=CHANNELS_LAST)


def test_the_discriminators_gradient_can_be_differentiated_again() -> None:
    """R1 and R2 need it. Against finite differences."""
    discriminator, step = Discriminator(width=0.1).double().eval(), 1e-6
    weight = discriminator.embedding.weight

    def penalty() -> Tensor:
        x = images(2, 1, ENOUGH, ENOUGH).requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x, torch.tensor([0, 1])).sum(), x, create_graph=True)
        return gradient.square().sum()

    (found,) = torch.autograd.grad(penalty(), weight)
    steepest = torch.zeros_like(found).flatten()
    steepest[found.abs().argmax()] = step
    values = []
    for sign in (1, -2):
        weight.data += sign * steepest.reshape(weight.shape)
        values.append(penalty().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(found.flatten()[steepest.argmax()].item(), rel=1e-5)


@pytest.mark.parametrize("wide_stay", [False, True])
def test_the_layout_of_the_weights_changes_nothing(wide_stay: bool) -> None:
    """All weights channels-last, or the widest as they were."""
    generator, discriminator = Generator(width=0.1).double(), Discriminator(width=0.1).double()
    networks, condition, image = nn.ModuleList([generator, discriminator]), torch.tensor([0, 1]), images(2, 1, 64, 64)
    before = {name: value.clone() for name, value in networks.state_dict().items()}

    def learned() -> list[Tensor]:
        networks.load_state_dict(before)
        value = discriminator(generator(image, condition), condition).sum()
        return [value, *torch.autograd.grad(value, list(networks.parameters()))]

    expected = learned()
    widest = max(p.numel() for p in networks.parameters())
    for p in networks.parameters():
        if p.ndim == 4 and not (wide_stay and p.numel() > widest / 4):
            p.data = p.data.contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(learned(), expected)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_serves_the_next_tensor() -> None:
    """The system then provides next to no new page; by default, it provides all 16,384 of every 64 MB."""
    code = """
import resource
from cfxai.nn.heap import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(10):
        bytes([i]) * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = pages()
assert keep_freed_memory()
pages()
print(given_back, pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 10


class TestEager:
    """`eager` against calling the function."""

    def setup_method(self) -> None:
        torch.manual_seed(0)
        layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
        self.network = nn.Sequential(*layers).double().requires_grad_(False)

    def value(self, x: Tensor) -> Tensor:
        return self.network(x).square().mean()

    def test_the_value_and_the_gradient_are_the_functions(self) -> None:
        x, weight = features(2, 2, 8, 8), features(1)
        expected, found = self.value((x * weight).tanh()), eager(self.value, (x * weight).tanh())
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(3 * found, [x, weight]), gradients(3 * expected, [x, weight]))

    def test_two_uses_of_one_tensor_add_up(self) -> None:
        x = features(2, 2, 8, 8)
        expected, found = self.value(x) + 2 * x.mean(), eager(self.value, x) + eager(lambda x: 2 * x.mean(), x)
        torch.testing.assert_close(gradients(found, [x]), gradients(expected, [x]))

    def test_under_autocast(self) -> None:
        self.network.float()
        x = features(2, 2, 8, 8).detach().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = self.value(x).float(), eager(self.value, x).float()
        torch.testing.assert_close(gradients(found, [x]), gradients(expected, [x]), rtol=1e-2, atol=1e-4)

    def test_without_gradients_it_is_a_plain_call(self) -> None:
        x = features(2, 2, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(eager(self.value, x), self.value(x))
        assert not eager(self.value, x.detach()).requires_grad

    def test_what_the_function_stored_is_freed(self) -> None:
        inside: list[weakref.ref[Tensor]] = []

        def value(x: Tensor) -> Tensor:
            h = self.network[0](x)
            inside.append(weakref.ref(h))
            return h.square().mean()

        x = features(2, 2, 8, 8)
        eagerly = eager(value, x)
        assert eagerly.requires_grad
        assert inside[0]() is None

    def test_a_network_that_still_learns_is_refused(self) -> None:
        self.network[3].requires_grad_(True)
        with pytest.raises(ValueError, match=r"freeze"):
            eager(self.value, features(2, 2, 8, 8))

    def test_a_value_that_does_not_depend_on_the_tensor_is_refused(self) -> None:
        with pytest.raises(ValueError, match="does not depend"):
            eager(lambda x: torch.zeros(()), features(1, 2, 8, 8))
