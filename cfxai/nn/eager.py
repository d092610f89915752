"""A scalar of a tensor through networks that are not trained, with its gradient taken at once."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def eager(function: Callable[[Tensor], Float[Tensor, ""]], x: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """function(x), exactly; what the function stored for its backward pass is freed before this returns.

    Of several terms of one loss, only one at a time then occupies memory. The result is differentiable once, with
    respect to x alone.

    Raises:
        ValueError: the function would give gradients to something else than x, a weight that is not frozen.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return function(x)
    return _Eager.apply(x, function)


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = function(leaf)
        if not value.requires_grad:
            raise ValueError("eager: the function's value does not depend on x.")
        if shape := _learns(value, leaf):
            raise ValueError(f"eager: the function also trains a tensor of shape {shape}; freeze its network first.")
        with torch.autocast(x.device.type, enabled=False):  # gradients follow the precision that values had
            (gradient,) = torch.autograd.grad(value, leaf)
        ctx.save_for_backward(gradient)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream.to(gradient.dtype) * gradient, None


def _learns(value: Tensor, leaf: Tensor) -> tuple[int, ...] | None:
    """The shape of a leaf other than `leaf` that a backward pass from `value` would give a gradient."""
    ahead, seen = [value.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found = getattr(node, "variable", None)  # only the nodes of leaves have one
        if found is not None and found is not leaf:
            return tuple(found.shape)
        ahead.extend(following for following, _ in node.next_functions)
    return None
