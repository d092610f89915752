"""How alike two maps of the same image are: of two seeds, checkpoints, architectures, classes or sets of weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor

from cfxai.protocols import Saliency

WINDOW = 7
"""Pixels of a side of SSIM's window, or as many as a smaller image has."""


@dataclass(frozen=True)
class Similarity:
    """Of each image; NaN where either map is constant and says nothing.

    Attributes:
        spearman: rank correlation over pixels, in [-1, 1].
        ssim: mean structural similarity of the maps, each scaled to [0, 1] (Wang et al. 2004); 1 = the same.
    """

    spearman: Float[Tensor, " b"]
    ssim: Float[Tensor, " b"]


def similarity(first: Saliency, second: Saliency) -> Similarity:
    """Compares maps as they are, signs too; pass `.abs()` where only the strength counts.

    With maps of two seeds or two checkpoints this is their repeatability, of two architectures their reproducibility
    (Arun et al. 2021, doi:10.1148/ryai.2021200267).
    """
    pairs = [(a, b) for a, b in zip(first.double().cpu(), second.double().cpu(), strict=True)]
    return Similarity(
        torch.tensor([rank_correlation(a, b) for a, b in pairs]), torch.tensor([_structural(a, b) for a, b in pairs])
    )


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rho over all pairs of values of which both are there (not NaN); NaN where either is constant.

    Of maps [*spatial], or of two tables of region scores [b r].
    """
    a, b = first.detach().cpu().flatten(), second.detach().cpu().flatten()
    there = a.isfinite() & b.isfinite()
    a, b = a[there], b[there]
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def _structural(first: Tensor, second: Tensor) -> float:
    ranges = [float(x.max() - x.min()) for x in (first, second)]
    window = min(WINDOW, *(side - 1 + side % 2 for side in first.shape))
    if not all(ranges) or window < 3:
        return float("nan")
    a, b = (((x - x.min()) / span).numpy() for x, span in zip((first, second), ranges, strict=True))
    return float(structural_similarity(a, b, win_size=window, data_range=1.0))
