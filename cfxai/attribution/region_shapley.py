"""Shapley values of regions (Shapley 1953)."""

from math import comb

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cfxai.attribution.coalitions import RegionAttributor
from cfxai.errors import ConfigError
from cfxai.protocols import Regions


class RegionShapley(RegionAttributor):
    """What showing a region adds to the score, averaged over all orders in which regions can be shown one by one.

    Values sum to f(x) - f(baseline). Up to `exact` regions, by the scores of all 2^r coalitions; above, by random
    orders and their reverses (antithetic: Mitchell et al. 2022, arXiv:2104.12199), r - 1 passes each; they sum to the
    same.

    Args:
        classifier, regions, baseline, batch_size: see `RegionAttributor`.
        exact: most regions of an image, the rest included where there is any, for which all coalitions are scored.
        permutations: random orders above that, reverses included.
        seed: of the random orders.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        regions: Regions,
        exact: int = 10,
        permutations: int = 32,
        baseline: float = -1.0,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, regions=regions, baseline=baseline, batch_size=batch_size)
        if not 0 <= exact <= 20 or permutations < 2 or permutations % 2:
            raise ConfigError(
                f"region_shapley: exact={exact} must lie between 0 and 20 (2^20 coalitions), and "
                f"permutations={permutations} be even, 2 or more."
            )
        self.exact, self.permutations, self.seed = exact, permutations, seed

    def coalitions(self, players: int) -> Bool[Tensor, "n p"]:
        if players <= self.exact:
            return (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 == 1
        place = self._orders(players).argsort(1)  # [o p]: when a region is shown
        return (place[:, None] < torch.arange(players + 1)[:, None]).flatten(0, 1)

    def values(self, coalitions: Bool[Tensor, "n p"], scores: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        players = coalitions.shape[1]
        if players <= self.exact:
            # a region joins s others first in one of p * comb(p - 1, s) cases alike
            share = torch.tensor([1 / (players * comb(players - 1, s)) for s in range(players)] + [0.0]).double()
            size = coalitions.sum(1, keepdim=True)
            weights = torch.where(coalitions, share[size - 1], -share[size])
            return scores @ weights
        orders = self._orders(players)
        gains = scores.view(len(orders), players + 1).diff(dim=1)
        return torch.zeros(players, dtype=scores.dtype).index_add(0, orders.flatten(), gains.flatten()) / len(orders)

    def _orders(self, players: int) -> Int[Tensor, "o p"]:
        random = torch.Generator().manual_seed(self.seed)
        orders = torch.rand(self.permutations // 2, players, generator=random).argsort(1)
        return torch.stack([orders, orders.flip(1)], 1).flatten(0, 1)
