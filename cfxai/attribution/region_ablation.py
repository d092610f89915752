"""How much the target's score drops when a region is hidden."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cfxai.attribution.coalitions import RegionAttributor


class RegionAblation(RegionAttributor):
    """f(x) - f(x without the region): occlusion (Zeiler and Fergus 2014, arXiv:1311.2901) with regions as windows.

    One forward pass per region, and one for the image.
    """

    def coalitions(self, players: int) -> Bool[Tensor, "n p"]:
        return torch.cat([torch.ones(1, players, dtype=torch.bool), ~torch.eye(players, dtype=torch.bool)])

    def values(self, coalitions: Bool[Tensor, "n p"], scores: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        return scores[0] - scores[1:]
