"""Convolutions whose features take the memory layout of the weight, whichever that is.

Where the two differ, or both are channels-last, a CPU computes the weight's gradient in the standard layout and then
transposes it, which for wide layers at coarse resolutions costs more than the convolution.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def aligned(x: Float[Tensor, "b c h w"], weight: Float[Tensor, "_ _ k k"]) -> Float[Tensor, "b c h w"]:
    """x itself, or in the standard layout if the weight is."""
    return x.contiguous() if weight.is_contiguous() else x


class AlignedConv2d(nn.Conv2d):
    """`nn.Conv2d` of stride 1 with features laid out as its weight."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        weight = self.weight  # once: spectral norms move when looked at
        return F.conv2d(aligned(input, weight), weight, self.bias, padding=self.padding)
