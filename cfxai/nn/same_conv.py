"""Convolutions of stride 1 that keep the sides, for even kernels too."""

from typing import Any

from torch import nn

from cfxai.nn.blocks import CONV

PAD: dict[int, Any] = {2: nn.ZeroPad2d, 3: nn.ZeroPad3d}


def same_conv(inputs: int, outputs: int, kernel: int, dims: int = 2) -> list[nn.Module]:
    """[b inputs *spatial] -> [b outputs *spatial], as layers in order.

    An even kernel is padded by one pixel more at the end than at the start, as TensorFlow's `same` does it.
    """
    before, after = (kernel - 1) // 2, kernel // 2
    if before == after:
        return [CONV[dims](inputs, outputs, kernel, padding=before)]
    return [PAD[dims]((before, after) * dims), CONV[dims](inputs, outputs, kernel)]
