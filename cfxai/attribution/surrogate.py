"""Linear models of how the score depends on which regions are shown: KernelSHAP and LIME."""

from math import comb

import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from cfxai.attribution.coalitions import RegionAttributor
from cfxai.errors import ConfigError
from cfxai.protocols import Regions


class KernelSHAP(RegionAttributor):
    """Shapley values as the weighted least squares fit of a linear model (Lundberg and Lee 2017, arXiv:1705.07874).

    Values sum to f(x) - f(baseline). Coalitions are drawn with their complements ("Improving KernelSHAP", 2021,
    arXiv:2012.01536); where there are no more than `samples`, all are used and the values are exact.

    Args:
        classifier, regions, baseline, batch_size: see `RegionAttributor`.
        samples: coalitions besides the image and the baseline.
        seed: of the coalitions.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        regions: Regions,
        samples: int = 512,
        baseline: float = -1.0,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, regions=regions, baseline=baseline, batch_size=batch_size)
        if samples < 2 or samples % 2:
            raise ConfigError(f"kernel_shap: samples={samples} must be even, 2 or more: coalitions come in pairs.")
        self.samples, self.seed = samples, seed

    def coalitions(self, players: int) -> Bool[Tensor, "n p"]:
        """None, all, and then the others."""
        ends = torch.tensor([[False], [True]]).expand(2, players)
        if self._exhaustive(players):
            every = (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 == 1
            return torch.cat([ends, every[1:-1]])
        random = torch.Generator().manual_seed(self.seed)
        sizes = torch.arange(1, players)
        chances = 1 / (sizes * (players - sizes))  # the kernel's weight of all coalitions of a size together
        size = sizes[chances.multinomial(self.samples // 2, replacement=True, generator=random)]
        place = torch.rand(self.samples // 2, players, generator=random).argsort(1)
        drawn = place < size[:, None]
        return torch.cat([ends, drawn, ~drawn])

    def values(self, coalitions: Bool[Tensor, "n p"], scores: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        players, total = coalitions.shape[1], scores[1] - scores[0]
        if players == 1:
            return total[None]
        shown, gain = coalitions[2:].double(), scores[2:] - scores[0]
        weight = torch.ones_like(gain)
        if self._exhaustive(players):
            size = shown.sum(1).long().tolist()
            weight = torch.tensor([1 / (comb(players, s) * s * (players - s)) for s in size]).double()
        # values sum to the total: the last one is what the others leave
        design, left = shown[:, :-1] - shown[:, -1:], gain - shown[:, -1] * total
        root = weight.sqrt()
        others = torch.linalg.pinv(root[:, None] * design) @ (root * left)
        return torch.cat([others, (total - others.sum())[None]])

    def _exhaustive(self, players: int) -> bool:
        return 2**players - 2 <= self.samples


class LIME(RegionAttributor):
    """Coefficients of a ridge regression of the score on which regions are shown.

    Ribeiro et al. 2016, arXiv:1602.04938. Each region is shown or hidden by the toss of a coin. A coalition's weight is
    exp(-d^2 / (2 width^2)), d its cosine distance from the whole image, as the published code has it for images. Values
    need not sum to anything.

    Args:
        classifier, regions, baseline, batch_size: see `RegionAttributor`.
        samples: coalitions, the whole image among them.
        width: of the kernel.
        ridge: weight of the coefficients' squares against the sum of weighted squared errors.
        seed: of the coalitions.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        regions: Regions,
        samples: int = 512,
        width: float = 0.25,
        ridge: float = 1.0,
        baseline: float = -1.0,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, regions=regions, baseline=baseline, batch_size=batch_size)
        if samples < 2 or width <= 0 or ridge < 0:
            raise ConfigError(
                f"lime: samples={samples} must be 2 or more, width={width} above 0, and ridge={ridge} not below 0."
            )
        self.samples, self.width, self.ridge, self.seed = samples, width, ridge, seed

    def coalitions(self, players: int) -> Bool[Tensor, "n p"]:
        random = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(self.samples - 1, players, generator=random) < 0.5
        return torch.cat([torch.ones(1, players, dtype=torch.bool), drawn])

    def values(self, coalitions: Bool[Tensor, "n p"], scores: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        distance = 1 - coalitions.double().mean(1).sqrt()  # the cosine of a 0/1 vector with all ones
        weight = (-(distance**2) / (2 * self.width**2)).exp()
        model = Ridge(alpha=self.ridge).fit(coalitions.double().numpy(), scores.numpy(), sample_weight=weight.numpy())
        return torch.from_numpy(model.coef_)
