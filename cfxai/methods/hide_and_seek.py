"""Verification of a counterfactual's changes, one by one, after Hide-and-Seek Attribution (arXiv:2512.06849).

A generator also smooths noise and moves edges, and a move in a latent code changes whatever goes with it. Where the
image is shown again in one place of its counterfactual and the classifier does not mind, that change was not needed,
and is undone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels

AT_ONCE = 64
"""Revealed images in a forward pass."""


class HideAndSeek:
    """Undoes the changes that the classifier does not need.

    A candidate is a connected region where |x - x'| exceeds `threshold`. Revealed alone, it must lower the probability
    of the counterfactual's target by `gain`; otherwise x' becomes x there. An image that f would no longer call as it
    was to be called after all of this keeps its counterfactual as it was.

    Args:
        threshold: of |x - x'|, in [0, 1]; several are applied in turn, and a higher one divides what a lower one took
            for one change.
        gain: of the target's probability, in [0, 1].

    Raises:
        ConfigError: a threshold or gain outside [0, 1].
    """

    def __init__(self, threshold: float | Sequence[float] = 0.05, gain: float = 0.02) -> None:
        self.thresholds = tuple(threshold) if isinstance(threshold, Sequence) else (threshold,)
        self.gain = gain
        for key, value in [("gain", gain), *(("threshold", each) for each in self.thresholds)]:
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ConfigError(f"verify.{key}: must be from 0 to 1, got {value}.")

    @torch.no_grad()
    def __call__(self, image: Image, counterfactual: Image, target: Labels, classifier: nn.Module) -> Image:
        """A target that the classifier has no class for, such as a grade, is its last class."""
        for threshold in self.thresholds:
            counterfactual = self._verified(image, counterfactual, target, classifier, threshold)
        return counterfactual

    def _verified(
        self, image: Image, counterfactual: Image, target: Labels, classifier: nn.Module, threshold: float
    ) -> Image:
        difference = (image - counterfactual).abs().mean(1) / 2
        owners, regions = _candidates(difference > threshold)
        if not len(owners):
            return counterfactual
        before = _probability(classifier, counterfactual, target)
        revealed = torch.cat([
            _probability(classifier, torch.where(shown[:, None], image[mine], counterfactual[mine]), target[mine])
            for mine, shown in zip(owners.split(AT_ONCE), regions.split(AT_ONCE), strict=True)
        ])  # fmt: skip
        needless = before[owners] - revealed < self.gain
        undo = torch.zeros_like(difference).index_add_(0, owners[needless], regions[needless].to(difference)) > 0
        verified = torch.where(undo[:, None], image, counterfactual)
        relapsed = (_probability(classifier, verified, target) <= 0.5) & (before > 0.5)
        return torch.where(relapsed.view(-1, *[1] * (image.ndim - 1)), counterfactual, verified)


def _candidates(changed: Bool[Tensor, "b *spatial"]) -> tuple[Tensor, Bool[Tensor, "n *spatial"]]:
    """The image [n] and the place of each of the n connected regions."""
    structure = ndimage.generate_binary_structure(changed.ndim - 1, changed.ndim - 1)
    owners, regions = [], []
    for owner, mask in enumerate(changed.cpu().numpy()):
        labels, count = ndimage.label(mask, structure)
        owners += [owner] * count
        regions += [labels == number for number in range(1, count + 1)]
    places = np.stack(regions) if regions else np.zeros((0, *changed.shape[1:]), bool)
    return torch.tensor(owners, device=changed.device), torch.from_numpy(places).to(changed.device)


def _probability(classifier: nn.Module, image: Image, target: Labels) -> Float[Tensor, " b"]:
    """That of each image's target."""
    probability = classifier(image).float().softmax(1)
    return probability.gather(1, target.clamp_max(probability.shape[1] - 1)[:, None])[:, 0]
