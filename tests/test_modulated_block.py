"""The blocks of diffusion networks are as fast as they can be, and still compute what their formulas say."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfxai.nn.autoencoder import Autoencoder
from cfxai.nn.dropout import Dropout
from cfxai.nn.memory_format import convolve_fast
from cfxai.nn.modulated_block import PlainBlock, scaled_norm


@pytest.mark.parametrize("sides", [(5,), (4, 3), (2, 3, 4)])
def test_each_sample_is_normalised_and_scaled_by_itself(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, *sides) * 2 + 1
    slope, offset = torch.randn(3, 6), torch.randn(3, 6)
    found = scaled_norm(x, nn.GroupNorm(2, 6), slope, offset)
    for i, sample in enumerate(x):
        groups = sample.reshape(2, -1)
        groups = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        wanted = groups.reshape(6, -1) * slope[i, :, None] + offset[i, :, None]
        assert torch.allclose(found[i].flatten(1), wanted, atol=1e-5)


@pytest.mark.parametrize("sides", [(16, 16), (15, 17)])
def test_growing_within_the_convolution_changes_nothing(sides: tuple[int, int]) -> None:
    """Four images of 16 x 16 are enough for one larger kernel to pay; odd sides have none."""
    torch.manual_seed(0)
    block = PlainBlock(4, 6, groups=2, resample="up")
    x = torch.randn(4, 4, *sides, requires_grad=True)

    def plain(x: Tensor) -> Tensor:
        return block.shortcut(block.resample(x)) + block.conv(block.resample(F.silu(block.norm(x))))

    gradients = []
    for forward in (block, plain):
        out = forward(x)
        gradients.append(torch.autograd.grad(out.square().sum(), [x, *block.parameters()]))
    assert torch.allclose(block(x), plain(x), atol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_what_it_should_and_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(3, 1001, 67, dtype=dtype, requires_grad=True)
    out = layer(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 1 / (1 - p)], rel=1e-2)
    kept = (out > 0).double()
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * deviation
    lines = kept.flatten()
    for shift in (1, 2, 3, 4, 67):  # four neighbours share a draw
        assert abs(torch.corrcoef(torch.stack([lines[shift:], lines[:-shift]]))[0, 1]) < 4 / len(lines) ** 0.5
    assert torch.equal(layer.eval()(x), x)
    torch.manual_seed(0)
    assert torch.equal(layer.train()(x), out)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(p: float) -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(p)(x), x * (1 - p))


def test_the_autoencoders_weights_keep_the_standard_layout() -> None:
    network = nn.ModuleList(
        [Autoencoder(width=8, multipliers=(1, 2), encoder_multipliers=(1,), groups=4, attention=()), nn.Conv2d(4, 4, 3)]
    )
    laid = [p.is_contiguous() for p in convolve_fast(network).parameters() if p.ndim == 4 and p.shape[2] == 3]
    assert laid == [True] * (len(laid) - 1) + [False]
