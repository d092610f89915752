"""Convolutions whose features take the memory layout of the weight, whichever that is.

Where the two differ, or both are channels-last, a CPU computes the weight's gradient in the standard layout and then
transposes it, which for wide layers at coarse resolutions costs more than the convolution.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FEW_POSITIONS = 128  # of a 1x1 convolution; up to here it is faster as one product of matrices


def aligned(x: Float[Tensor, "b c h w"], weight: Float[Tensor, "_ _ k k"]) -> Float[Tensor, "b c h w"]:
    """x itself, or in the standard layout if the weight is."""
    return x.contiguous() if weight.is_contiguous() else x


def strided_channels_last(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The image, such that what is convolved from it is channels-last.

    One channel lies in memory as either layout has it; torch takes it for the standard one unless its strides say else.
    """
    return image[:, 0, :, :, None].movedim(-1, 1) if image.shape[1] == 1 else image


class AlignedConv2d(nn.Conv2d):
    """`nn.Conv2d` of stride 1 with features laid out as its weight."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.convolved(input, self.weight, self.bias)

    def convolved(
        self, input: Float[Tensor, "b c h w"], weight: Float[Tensor, "d c k k"], bias: Float[Tensor, " d"] | None
    ) -> Float[Tensor, "b d h2 w2"]:
        """What the layer does, with another weight and bias."""
        if weight.shape[2:] == (1, 1) and input.numel() <= FEW_POSITIONS * input.shape[1]:
            return F.linear(input.movedim(1, -1), weight[:, :, 0, 0], bias).movedim(-1, 1)
        return F.conv2d(aligned(input, weight), weight, bias, padding=self.padding)
