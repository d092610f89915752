"""The convolutions that generators compute in another way than torch does: the same values and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cfxai.nn.narrow_conv import NarrowConvTranspose2d
from cfxai.nn.pointwise_conv import PointwiseConv2d, channel_softmax

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["standard", "last"])
SIDES = st.integers(1, 7)


def with_gradients(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """The value, and its gradients for an upstream one that is different everywhere."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = function(*leaves)
    upstream = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@LAYOUTS
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), SIDES, SIDES)
def test_a_narrow_transposed_convolution(
    layout: torch.memory_format, batch: int, inputs: int, outputs: int, height: int, width: int
) -> None:
    layer = NarrowConvTranspose2d(inputs, outputs).double()
    x = torch.randn(batch, inputs, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    assert layer.bias is not None

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    tensors = x, layer.weight, layer.bias
    assert_same(with_gradients(ours, *tensors), with_gradients(torchs, *tensors))


@LAYOUTS
def test_a_pointwise_convolution(layout: torch.memory_format) -> None:
    layer = PointwiseConv2d(3, 5).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=layout)
    product = torch.einsum("bchw,dc->bdhw", x, layer.weight[:, :, 0, 0]) + layer.bias[:, None, None]  # type: ignore
    torch.testing.assert_close(layer(x), product)


@LAYOUTS
def test_the_softmax_over_channels(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=layout)
    assert_same(with_gradients(channel_softmax, x), with_gradients(lambda x: x.softmax(1), x))
