"""Averaged copies of networks."""

from copy import deepcopy

import torch
from torch import nn


class Average(nn.Module):
    """The exponential moving average of a module's parameters and floating-point buffers.

    With `warm_up`, after n updates the decay is min(decay, (1 + n) / (10 + n)), so that early averages forget the
    initial weights.
    """

    updates: torch.Tensor

    def __init__(self, module: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        super().__init__()
        self.decay, self.warm_up = decay, warm_up
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        n = int(self.updates)
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warm_up else self.decay
        averaged, current = self.module.state_dict().values(), module.state_dict().values()
        pairs = [(a, c) for a, c in zip(averaged, current, strict=True)]
        floating = [(a, c) for a, c in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [c for _, c in floating], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        self.updates += 1
