"""The kinds of layers and functions that propagation rules tell apart."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sum(nn.Module):
    """The sum of activations stacked along the last axis: a residual connection."""

    def forward(self, stacked: Tensor) -> Tensor:
        return stacked.sum(-1)


class Mean(nn.Module):
    """The mean over some axes: global pooling. Arguments as of `Tensor.mean`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args, self.kwargs = args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(*self.args, **self.kwargs)


class HeldFixed(nn.Module):
    """`operation(x, other)` in which only x counts: `other`, a gate or a constant, is held fixed."""

    def __init__(self, operation: Callable[..., Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor, *, other: Tensor | float) -> Tensor:
        return self.operation(x, other.detach() if isinstance(other, Tensor) else other)


class HeadInput(nn.Module):
    """Marks what the output is an affine function of: the features before the last layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def stacked(*summands: Tensor) -> Tensor:
    """[*shape n], for `Sum`."""
    return torch.stack(torch.broadcast_tensors(*summands), -1)


POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Softsign),
)
"""Activations of one number."""
LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
AVERAGES = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, Mean)
MAXIMA = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MOVERS = (nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.modules.padding._ConstantPadNd)
"""Layers that only move values, so that relevance returns to where its value came from."""
KNOWN = (Sum, HeldFixed, HeadInput, *POINTWISE, *LINEAR, *AVERAGES, *MAXIMA, *NORMS, *MOVERS)

MOVES = {
    *(F.pad, F.interpolate, F.pixel_shuffle, torch.cat, torch.stack, torch.flatten, torch.reshape, torch.permute),
    *(torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.movedim, operator.getitem),
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "movedim"),
    *("contiguous", "expand", "clone", "to", "float", "unbind", stacked),
}
"""Functions and tensor methods that only move values."""
CONSTANT = {torch.zeros_like, torch.ones_like, "new_zeros", "new_ones", "new_full", "detach"}
"""What does not depend on the values that it is given."""
ARITHMETIC: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), torch.add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), torch.sub),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), torch.mul),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), torch.div),
}
LAYERS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"), nn.Sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh", "tanh_"), nn.Tanh),
    **dict.fromkeys((torch.mean, "mean"), Mean),
    **{getattr(F, c.__name__.lower()): c for c in (nn.ReLU6, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus)},
    **{F.leaky_relu: nn.LeakyReLU, F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid},
    **{getattr(F, f"adaptive_avg_pool{n}d"): getattr(nn, f"AdaptiveAvgPool{n}d") for n in (1, 2, 3)},
    **{getattr(F, f"avg_pool{n}d"): getattr(nn, f"AvgPool{n}d") for n in (1, 2, 3)},
    **{getattr(F, f"max_pool{n}d"): getattr(nn, f"MaxPool{n}d") for n in (1, 2, 3)},
}
"""Functions and tensor methods that are a layer."""
