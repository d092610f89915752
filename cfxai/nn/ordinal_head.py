"""A linear head that reads grades, in their order, along one direction."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OrdinalHead(nn.Module):
    """Codes [b d] to the logits [b grades - 1] of a grade above 0, above 1, … (proportional odds, McCullagh 1980).

    They differ by thresholds alone: whatever makes an image worse makes it worse along the same direction.
    """

    def __init__(self, dimension: int, grades: int) -> None:
        super().__init__()
        self.direction = nn.Linear(dimension, 1, bias=False)
        self.thresholds = nn.Parameter(torch.arange(grades - 1) - (grades - 2) / 2)

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b above"]:
        return self.direction(z) - self.thresholds
