"""The ruler, a network that segments lesions: what it finds in images, and how far that can be trusted."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from cfxai.data.dataset import Dataset
from cfxai.protocols import NORMAL, Image, Mask


@torch.no_grad()
def segmented(ruler: nn.Module, image: Image) -> Mask:
    """Where a ruler sees lesion."""
    return ruler(image)[:, 0] > 0


def judge_ruler(
    ruler: nn.Module, dataset: Dataset, indices: Sequence[int], device: torch.device, *, batch_size: int
) -> dict[str, float | None]:
    """How good a ruler is on real images.

    `ruler_dice` is 2 |A ∩ B| / (|A| + |B|) of found and true lesions over all pixels of abnormal images.
    `ruler_spearman` is the rank correlation of found pixels with the grade over all images, normal ones included: what
    measuring with it can show at best. None where nothing defines a value: no masks or lesions, or no grades.
    """
    sizes: list[int] = []
    both = either = 0
    for start in range(0, len(indices), batch_size):
        batch = dataset.batch(indices[start : start + batch_size])
        found = segmented(ruler, batch["image"].to(device)).cpu()
        sizes += found.flatten(1).sum(1).tolist()
        if "mask" in batch:
            abnormal = batch["label"] != NORMAL
            truth, found = batch["mask"][abnormal], found[abnormal]
            both += int((found & truth).sum())
            either += int(found.sum() + truth.sum())
    grades = None if dataset.grades is None else np.asarray(dataset.grades)[list(indices)]
    ordered = grades is not None and len(set(sizes)) > 1 and len(np.unique(grades)) > 1
    return {
        "ruler_dice": 2 * both / either if either else None,
        "ruler_spearman": float(spearmanr(sizes, grades).statistic) if ordered else None,
    }
