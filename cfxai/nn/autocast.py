"""Sixteen bits for the network alone, where a caller's autocast asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def in_full(device: torch.device) -> Iterator[torch.dtype | None]:
    """Autocast off, so that sums over many passes keep their digits; yields the precision that it had, None = off."""
    asked = torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=False):
        yield torch.get_autocast_dtype(device.type) if asked else None


class Autocast(nn.Module):
    """`network`, run under autocast; its outputs are float32."""

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, self.precision):
            return widened(self.network(image))


def widened(values: Tensor) -> Tensor:
    """16-bit floats as float32, anything else as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
