"""Transposed convolutions to a few channels, such as the last one of a generator of grey images."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class NarrowConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` of kernel 4, stride 2, padding 1: [b c h w] -> [b d 2h 2w], for small d.

    On a CPU the 16 d values that a pixel adds to its surroundings are one product of matrices, and are then added where
    they belong; torch's own computes output channels in blocks of 16, of which d are wanted.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(
        self, input: Float[Tensor, "b c h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "b d h2 w2"]:
        if output_size is not None or input.device.type != "cpu":
            return super().forward(input, output_size)
        height, width = input.shape[2:]
        # A convolution instead would hand back a gradient in the standard layout, which all that follow would convert.
        taps = F.linear(input.movedim(1, -1), self.weight.flatten(1).T)
        grown = F.fold(taps.movedim(-1, 1).flatten(2), (2 * height, 2 * width), 4, padding=1, stride=2)
        return grown if self.bias is None else grown + self.bias[:, None, None]
