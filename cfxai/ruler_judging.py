"""The ruler, a network that segments lesions: what it finds in images, and how far that can be trusted."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from cfxai.data.dataset import Dataset
from cfxai.protocols import NORMAL, Image, Mask
from cfxai.regions.rank_correlation import Ranked


@torch.no_grad()
def segmented(ruler: nn.Module, image: Image) -> Mask:
    """Where a ruler sees lesion."""
    return ruler(image)[:, 0] > 0


def judge_ruler(
    ruler: nn.Module, dataset: Dataset, indices: Sequence[int], device: torch.device, *, batch_size: int
) -> dict[str, float | None]:
    """How good a ruler is on real images.

    `ruler_dice` is 2 |A ∩ B| / (|A| + |B|) of found and true lesions over all pixels of abnormal images.
    `ruler_spearman` is the rank correlation of found pixels with the grade, all grades counting alike, as in a sweep:
    what measuring with it can show at best. `mask_spearman` is that of the true pixels: what these lesions can show at
    best. None where nothing defines a value: no masks or lesions, or no grades.
    """
    sizes: list[int] = []
    true_sizes: list[int] = []
    both = either = 0
    for start in range(0, len(indices), batch_size):
        batch = dataset.batch(indices[start : start + batch_size])
        found = segmented(ruler, batch["image"].to(device)).cpu()
        sizes += found.flatten(1).sum(1).tolist()
        if "mask" in batch:
            true_sizes += batch["mask"].flatten(1).sum(1).tolist()
            abnormal = batch["label"] != NORMAL
            truth, found = batch["mask"][abnormal], found[abnormal]
            both += int((found & truth).sum())
            either += int(found.sum() + truth.sum())
    known = dataset.grades is not None
    grades = np.asarray(dataset.grades)[list(indices)] if known else np.zeros(len(indices), np.int64)
    return {
        "ruler_dice": 2 * both / either if either else None,
        "ruler_spearman": balanced_spearman(sizes, grades),
        "mask_spearman": balanced_spearman(true_sizes, grades) if true_sizes else None,
    }


def balanced_spearman(sizes: Sequence[int], grades: Int[np.ndarray, " n"]) -> float | None:
    """Spearman's rho, each image weighted by one over its grade's number; None where sizes or grades are constant."""
    ranked = Ranked.of(np.asarray(sizes, float), grades.astype(float))
    weight = 1 / np.bincount(ranked.level)[ranked.level]
    rho = ranked.correlations(ranked.level[None], weight[None])[0, 0]
    return float(rho) if np.isfinite(rho) else None
