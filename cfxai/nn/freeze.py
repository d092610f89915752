"""Networks that take part in a forward pass without being trained by it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module, *, still: bool = True) -> Iterator[None]:
    """No weight gradients; gradients still pass through to the input.

    While `still`, also evaluation mode: spectral-norm vectors and BatchNorm statistics stand. Then all is as before.
    """
    training = {m: m.training for m in module.modules()}
    wanted = {p: p.requires_grad for p in module.parameters()}
    module.requires_grad_(False)
    if still:
        module.eval()
    try:
        yield
    finally:
        for m, mode in training.items():
            m.training = mode
        for p, flag in wanted.items():
            p.requires_grad_(flag)
