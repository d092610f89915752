"""Verification of a counterfactual's changes, one by one, after Hide-and-Seek Attribution (arXiv:2512.06849).

A generator also smooths noise and moves edges. Where the image is shown again in one place of its counterfactual and
the classifier does not mind, that change was not needed, and is undone.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from cfxai.protocols import NORMAL, Image

AT_ONCE = 64
"""Revealed images in a forward pass."""


class HideAndSeek:
    """Undoes the changes that the classifier does not need.

    A candidate is a connected region where |x - x'| exceeds `threshold`. Revealed alone, it must raise the abnormal
    probability of the counterfactual by `gain`; otherwise x' becomes x there. An image that f would call abnormal after
    all of this keeps its counterfactual as it was.

    Args:
        threshold: of |x - x'|, in [0, 1].
        gain: of the abnormal probability, in [0, 1].
    """

    def __init__(self, threshold: float = 0.05, gain: float = 0.02) -> None:
        self.threshold, self.gain = threshold, gain

    @torch.no_grad()
    def __call__(self, image: Image, counterfactual: Image, classifier: nn.Module) -> Image:
        difference = (image - counterfactual).abs().mean(1) / 2
        owners, regions = self._candidates(difference > self.threshold)
        if not len(owners):
            return counterfactual
        before = abnormal(classifier, counterfactual)
        revealed = torch.cat([
            abnormal(classifier, torch.where(shown[:, None], image[mine], counterfactual[mine]))
            for mine, shown in zip(owners.split(AT_ONCE), regions.split(AT_ONCE), strict=True)
        ])  # fmt: skip
        needless = revealed - before[owners] < self.gain
        undo = torch.zeros_like(difference).index_add_(0, owners[needless], regions[needless].to(difference)) > 0
        verified = torch.where(undo[:, None], image, counterfactual)
        relapsed = (abnormal(classifier, verified) >= 0.5) & (before < 0.5)
        return torch.where(relapsed.view(-1, *[1] * (image.ndim - 1)), counterfactual, verified)

    def _candidates(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        """The image [n] and the place [n *spatial] of each of the n candidates."""
        structure = ndimage.generate_binary_structure(changed.ndim - 1, changed.ndim - 1)
        owners, regions = [], []
        for owner, mask in enumerate(changed.cpu().numpy()):
            labels, count = ndimage.label(mask, structure)
            owners += [owner] * count
            regions += [labels == number for number in range(1, count + 1)]
        places = np.stack(regions) if regions else np.zeros((0, *changed.shape[1:]), bool)
        return torch.tensor(owners, device=changed.device), torch.from_numpy(places).to(changed.device)


def abnormal(classifier: nn.Module, image: Image) -> Tensor:
    """The classifier's probability [b] that there is a finding."""
    return 1 - classifier(image).float().softmax(1)[:, NORMAL]
