"""A 3x3 convolution and the resampling beside it as one convolution of less than half the work.

Averaging 2x2 cells after a convolution, and repeating pixels before one, are linear: they combine with its kernel.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cfxai.nn.aligned_conv import AlignedConv2d, aligned

Weight = Float[Tensor, "d c 3 3"]
FEWEST_POSITIONS = 1024  # below, making and reading the larger kernel costs more than it saves


class PooledConv2d(AlignedConv2d):
    """A 3x3 convolution, padding 1, then 2x2 average pooling: [b c h w] -> [b d h/2 w/2].

    Computed as a 4x4 convolution of stride 2, with 16 multiplications where there were 36.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def convolved(
        self, input: Float[Tensor, "b c h w"], weight: Weight, bias: Float[Tensor, " d"] | None
    ) -> Float[Tensor, "b d h2 w2"]:
        if not combines(input):
            return F.avg_pool2d(super().convolved(input, weight, bias), 2)
        kernel = _spread(weight, flip=False) / 4
        return F.conv2d(aligned(input, kernel), kernel, bias, stride=2, padding=1)


def combines(x: Float[Tensor, "b c h w"]) -> bool:
    """Whether the sides are even and there are enough positions for one larger kernel to pay."""
    return x.shape[2] % 2 == x.shape[3] % 2 == 0 and x.shape[0] * x.shape[2] * x.shape[3] >= FEWEST_POSITIONS


def grown_kernel(weight: Weight) -> Float[Tensor, "c d 4 4"]:
    """For `conv_transpose2d` of stride 2, padding 1: as if pixels were repeated 2x2 and then convolved, padding 1.

    4 multiplications an output pixel where there were 9, and the repeated pixels are never stored.
    """
    return _spread(weight, flip=True).transpose(0, 1)


def _spread(weight: Weight, *, flip: bool) -> Float[Tensor, "d c 4 4"]:
    """The kernel convolved with a 2x2 cell of ones, turned round for a transposed convolution if `flip`."""
    matrix = _matrix(flip, weight.device, weight.dtype)
    if weight.is_contiguous():
        return (weight.flatten(2) @ matrix.T).unflatten(2, (4, 4))
    taps = weight.permute(0, 2, 3, 1).flatten(1, 2)  # a view where the layout is channels-last
    return (matrix @ taps).unflatten(1, (4, 4)).permute(0, 3, 1, 2)


@cache
def _matrix(flip: bool, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "16 9"]:
    axis = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], device=device, dtype=dtype)
    axis = axis.flip(0) if flip else axis
    return torch.kron(axis, axis)
