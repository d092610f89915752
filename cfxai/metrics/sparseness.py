"""Whether a map points at few pixels or at many."""

import math

import torch

from cfxai.metrics.per_image import PerImage, Summary
from cfxai.protocols import Result, Saliency


class Sparseness:
    """Means over abnormal images, of maps in [0, 1]: how concentrated a map is, not whether it is right.

    `gini`: the Gini index, 0 = all pixels alike, near 1 = all in one pixel (Chalasani et al. 2020, arXiv:1810.06583).
    `complexity`: the entropy of the map as a distribution over pixels (Bhatt et al. 2020, arXiv:2005.00631) over its
    highest possible value, log pixels: 0 = all in one pixel, 1 = all alike. A map of zeros has neither and counts
    nowhere. With intervals over patients.

    Args:
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """

    def __init__(self, *, resamples: int = 2000, seed: int = 0) -> None:
        self.found = PerImage(["gini", "complexity"], resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        abnormal = (result.label > 0).nonzero()[:, 0].tolist()
        share = _shares(result.saliency)
        pixels = share.shape[1]
        place = 2 * torch.arange(1, pixels + 1, device=share.device) - pixels - 1
        gini = (place * share.sort(1).values).sum(1) / pixels
        complexity = torch.special.entr(share).sum(1) / math.log(max(2, pixels))
        for i in abnormal:
            if share[i].any():
                self.found.add(result.group[i], {"gini": float(gini[i]), "complexity": float(complexity[i])})

    def compute(self) -> Summary:
        return self.found.summary()


def _shares(saliency: Saliency) -> torch.Tensor:
    """Each pixel's part of its map's sum [b pixels]; zeros for a map of zeros."""
    flat = saliency.flatten(1).double()
    total = flat.sum(1, keepdim=True)
    return flat / torch.where(total > 0, total, 1)
