"""Networks that take part in a forward pass without being trained by it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight gradients, evaluation mode (spectral-norm vectors, BatchNorm statistics stand still), then as before.

    Gradients still pass through to the input.
    """
    training = {m: m.training for m in module.modules()}
    wanted = {p: p.requires_grad for p in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for m, mode in training.items():
            m.training = mode
        for p, flag in wanted.items():
            p.requires_grad_(flag)
