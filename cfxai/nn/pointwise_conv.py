"""1x1 convolutions, and the softmax over what they make of each position, as a CPU computes them fastest."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` of 1x1 kernels: [b c h w] -> [b d h w].

    On one thread, torch would leave these to its own slow loops. It asks oneDNN, two to three times as fast, where a
    convolution is dilated, which a kernel of one pixel cannot be told to be.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return F.conv2d(input, self.weight, self.bias, dilation=2 if input.device.type == "cpu" else 1)


def channel_softmax(x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
    """Softmax over channels; where they lie side by side in memory (channels-last), as the last axis."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.movedim(1, -1).softmax(-1).movedim(-1, 1)
    return x.softmax(1)
