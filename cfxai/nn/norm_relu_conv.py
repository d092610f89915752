"""Batch normalisation, ReLU and convolution as one step that keeps only its input for the backward pass.

What lies between, several tensors of the input's size, is computed again there: two cheap passes over memory.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from cfxai.nn.aligned_conv import aligned

Features = Float[Tensor, "b c h w"]
PerSample = Float[Tensor, "n c"]  # n = b, or 1 for all samples


def norm_relu_conv(
    x: Features,
    norm: nn.BatchNorm2d,
    scale: PerSample,
    shift: PerSample,
    kernel: Float[Tensor, "_ _ k k"],
    *,
    resample: Callable[[Tensor], Tensor] | None = None,
    transposed: bool = False,
) -> Float[Tensor, "b d h2 w2"]:
    """convolution(resample(relu(scale norm(x) + shift))), padding 1, without bias; differentiable once.

    Args:
        x: what is normalised, by its own statistics in training and by the running ones, which training moves, after.
        norm: gives those; its own scale and shift are not used.
        kernel: [d c k k] of a convolution of stride 1; `transposed`: [c d k k] of a transposed one of stride 2.
    """
    if norm.training:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        return _NormReluConv.apply(x, scale, shift, kernel, norm, resample, transposed)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    invstd = (norm.running_var + norm.eps).rsqrt()
    active = F.relu(_affine(x, *_line(scale, shift, norm.running_mean, invstd)))
    return _convolve(resample(active) if resample else active, kernel, transposed)


class _NormReluConv(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        kernel: Tensor,
        norm: nn.BatchNorm2d,
        resample: Callable[[Tensor], Tensor] | None,
        transposed: bool,
    ) -> Tensor:
        assert norm.momentum is not None
        _, mean, invstd = torch.native_batch_norm(
            x, None, None, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        )
        slope, offset = _line(scale, shift, mean, invstd)
        active = _affine(x, slope, offset).relu_()
        ctx.save_for_backward(x, scale, mean, invstd, slope, offset, kernel)
        ctx.resample, ctx.transposed = resample, transposed
        return _convolve(resample(active) if resample else active, kernel, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, invstd, slope, offset, kernel = ctx.saved_tensors
        active = _affine(x, slope, offset).relu_()
        with torch.enable_grad():
            leaf = active.detach().requires_grad_()
            entering = ctx.resample(leaf) if ctx.resample else leaf
        wrt_entering, wrt_kernel = _convolve_backward(ctx, gradient, entering.detach(), kernel)
        if ctx.resample:
            (wrt_entering,) = torch.autograd.grad(entering, leaf, wrt_entering)
        del entering, leaf
        # Every pass over memory counts from here on, so that tensors no longer needed take the results.
        wrt_active = wrt_entering.to(x.dtype)
        torch.ops.aten.threshold_backward.grad_input(wrt_active, active, 0, grad_input=wrt_active)
        wrt_shift = wrt_active.sum((2, 3), dtype=mean.dtype)
        moment = torch.mul(wrt_active, x, out=active).sum((2, 3), dtype=mean.dtype)
        wrt_scale = invstd * (moment - mean * wrt_shift)
        # Through the statistics (Ioffe & Szegedy 2015, arXiv:1502.03167): with n = scale norm(x) and x^ = norm(x),
        # dx = (dn scale - mean(dn scale) - x^ mean(dn scale x^)) / std, written as a line in x.
        count = x.numel() // x.shape[1]
        level, along = ((scale * wrt).sum(0) / count for wrt in (wrt_shift, wrt_scale))
        bend = -invstd.square() * along
        wrt_x = _affine(x, *(v[None, :, None, None] for v in (bend, -invstd * level - mean * bend)))
        wrt_x.addcmul_(wrt_active, slope.to(x.dtype))
        return wrt_x, wrt_scale.sum_to_size(scale.shape), wrt_shift.sum_to_size(scale.shape), wrt_kernel, *[None] * 3


def _line(scale: Tensor, shift: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """Normalisation, scale and shift as slope and offset, [n c 1 1]."""
    slope = scale * invstd
    return slope[:, :, None, None], (shift - slope * mean)[:, :, None, None]


def _affine(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """slope x + offset in one pass, in x's precision."""
    if torch.is_grad_enabled() or x.dtype == slope.dtype:
        return torch.addcmul(offset, x, slope).to(x.dtype)
    return torch.addcmul(offset, x, slope, out=torch.empty_like(x))


def _convolve(x: Tensor, kernel: Tensor, transposed: bool) -> Tensor:
    x = aligned(x, kernel)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1) if transposed else F.conv2d(x, kernel, padding=1)


def _convolve_backward(ctx: Any, gradient: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor | None]:
    stride = 2 if ctx.transposed else 1
    wrt_x, wrt_kernel, _ = torch.ops.aten.convolution_backward(
        gradient,
        aligned(x, kernel).to(gradient.dtype),  # autocast convolves in another precision than it normalises in
        kernel.to(gradient.dtype),
        None,
        [stride, stride],
        [1, 1],
        [1, 1],
        ctx.transposed,
        [0, 0],
        1,
        [True, ctx.needs_input_grad[3], False],
    )
    return wrt_x, None if wrt_kernel is None else wrt_kernel.to(kernel.dtype)
