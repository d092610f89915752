"""How much of a saliency map lies in each region, in numbers that compare across images, methods and map sizes.

A map S is left at its own resolution: the regions are averaged over the area of its cells instead, so that a 7 x 7
CAM and its enlargement to 224 x 224 px give the same means and shares. A region of a map with P cells is then a
column m of weights in [0, 1], and all sums of a batch are one product [2b P] @ [P r].

With |S| = S⁺ + S⁻, area A = Σ m / P:

    share        s = Σ |S| m / Σ |S|      what part of the map is in the region
    enrichment   E = log(s / A)           0: as much as a map without a preference would put there
    mean         Σ S m / Σ m              signed

Shares, not raw sums, compare groups: the overall magnitude of a map differs between images for many reasons.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from scipy.linalg import helmert
from torch import Tensor

from cfxai.errors import DataError, NumericsError
from cfxai.protocols import RegionMaps

Cells = Float[Tensor, "b *cells"]
Scores = Float[Tensor, "b r"]
SMALLEST = 1e-4
"""What a share of 0 counts as in log-ratios."""


@dataclass(frozen=True)
class RegionScores:
    """One number per image and region, NaN where the region is empty: the map says nothing about what is not there.

    Attributes:
        positive: Σ S⁺ m, what speaks for the target. A sum over the map's own cells: of LRP, part of the logit.
        negative: Σ S⁻ m >= 0, what speaks against it.
        mean: Σ S m / Σ m.
        share: in [0, 1]; NaN for a map of zeros. Of regions that partition the image they sum to 1.
        enrichment: log(share / area), natural; -inf where the map is 0 all over the region.
        area: of the region as a part of the image, never NaN.
    """

    positive: Scores
    negative: Scores
    mean: Scores
    share: Scores
    enrichment: Scores
    area: Scores

    @property
    def empty(self) -> Int[Tensor, " r"]:
        """Images in which each region is empty, to be reported beside its scores."""
        return (self.area == 0).sum(0)


def scores(saliency: Cells, regions: RegionMaps) -> RegionScores:
    """The scores of `regions`, whose maps lie on the image's grid, under maps at any resolution.

    Raises:
        NumericsError: a map that holds NaN or infinity.
        DataError: regions of another number of axes.
    """
    weights = _on_grid(regions, saliency)
    flat = saliency.flatten(1).float()
    signed = torch.cat([flat.clamp_min(0), flat.neg().clamp_min(0)])
    cells = flat.shape[1]
    columns = weights.flatten(2).transpose(1, 2)  # [b P r], or [1 P r] for all alike
    if len(columns) == 1:
        sums = signed @ columns[0]
    else:
        sums = torch.bmm(signed.unflatten(0, (2, -1)).transpose(0, 1), columns).transpose(0, 1).flatten(0, 1)
    positive, negative = sums.chunk(2)
    area = (columns.sum(1) / cells).expand_as(positive)
    there = torch.where(area > 0, 1.0, torch.nan)
    total = flat.abs().sum(1, keepdim=True)
    share = (positive + negative) / torch.where(total > 0, total, torch.nan) * there
    return RegionScores(
        positive=positive * there,
        negative=negative * there,
        mean=(positive - negative) / (area * cells) * there,
        share=share,
        enrichment=(share / area).log(),
        area=area,
    )


def published_scores(saliency: Cells, regions: RegionMaps, statistic: Literal["mean", "sum", "max"] = "mean") -> Scores:
    """The mean, sum or maximum of the raw map over each region, as published: not comparable across maps' magnitudes.

    Regions are binary here: the map's cells that lie in them by half or more. Regions made at the size of a small map
    (`grid({"image": cam[:, None]})`) are the published ones exactly. NaN where a region is empty.
    """
    inside = (_on_grid(regions, saliency) >= 0.5).flatten(2)
    values = saliency.flatten(1).float()[:, None]
    count = inside.sum(2).expand(len(values), -1)
    if statistic == "max":
        found = values.masked_fill(~inside, -torch.inf).amax(2)
    else:
        found = (values * inside).sum(2)
        found = found / count if statistic == "mean" else found
    return torch.where(count > 0, found, torch.nan)


def with_rest(regions: RegionMaps) -> Float[Tensor, "b r+1 *spatial"]:
    """`regions` and, last, what they leave of the image, so that shares sum to 1.

    Raises:
        DataError: regions that overlap: their rest would be counted twice.
    """
    covered = regions.sum(1, keepdim=True)
    if (covered > 1 + 1e-4).any():
        raise DataError("regions: they overlap, so that their shares are no composition; name regions that do not.")
    return torch.cat([regions, (1 - covered).clamp_min(0)], 1)


def clr(share: Scores, smallest: float = SMALLEST) -> Scores:
    """Centred log-ratio of shares that sum to 1: log s minus its mean over the regions (Aitchison 1986).

    Shares of 0 become `smallest` and the others shrink in proportion (Martín-Fernández et al. 2003). An image that
    lacks a region has no composition: its row is NaN.

    Raises:
        DataError: shares that do not sum to 1; see `with_rest`.
    """
    total = share.sum(1, keepdim=True)
    if ((total - 1).abs() > 1e-3).any():
        raise DataError("regions: their shares do not sum to 1; add what they leave of the image as a region.")
    zeros = share <= 0
    logs = torch.where(zeros, smallest, share / total * (1 - smallest * zeros.sum(1, keepdim=True))).log()
    return logs - logs.mean(1, keepdim=True)


def ilr(share: Scores, smallest: float = SMALLEST) -> Float[Tensor, "b coordinates"]:
    """Isometric log-ratio: r - 1 coordinates, the k-th of region k + 1 against those before it (Egozcue et al. 2003).

    The distances between images are those of `clr`, and the coordinates are free of its constraint Σ = 0.
    """
    basis = torch.from_numpy(helmert(share.shape[1])).to(share)
    return clr(share, smallest) @ basis.T


def area_pool(maps: Float[Tensor, "b r *spatial"], size: tuple[int, ...]) -> Float[Tensor, "b r *cells"]:
    """The mean of each map over the area of each of `size` cells; exact where sides do not divide, too."""
    for axis, cells in enumerate(size, start=2):
        length = maps.shape[axis]
        if length != cells:
            edge = torch.arange(cells + 1, dtype=torch.float64) * length / cells
            pixel = torch.arange(length, dtype=torch.float64)
            overlap = torch.minimum(edge[1:, None], pixel + 1) - torch.maximum(edge[:-1, None], pixel)
            weight = (overlap.clamp_min(0) * cells / length).to(maps)
            maps = torch.tensordot(maps, weight, dims=([axis], [1])).movedim(-1, axis)
    return maps


def _on_grid(regions: RegionMaps, saliency: Cells) -> Float[Tensor, "n r *cells"]:
    """The regions' weights on the map's cells; n = 1 where all images have the same."""
    if not saliency.isfinite().all():
        raise NumericsError("A saliency map holds NaN or infinity; check the explainer that made it.")
    if regions.ndim != saliency.ndim + 1:
        raise DataError(
            f"regions: have {regions.ndim - 2} axes, but the saliency maps have {saliency.ndim - 1};"
            " both must be of pictures, or both of volumes."
        )
    if regions.stride(0) == 0:
        regions = regions[:1]
    return area_pool(regions.to(saliency.device, torch.float32), tuple(saliency.shape[1:]))
