"""Verification of a counterfactual's changes, one by one, after Hide-and-Seek Attribution (arXiv:2512.06849).

A generator also smooths noise and moves edges, and a move in a latent code changes whatever goes with it. Where the
image is shown again in one place of its counterfactual and the classifier does not mind, that change was not needed,
and is undone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels

AT_ONCE = 1 << 21
"""Pixels of revealed images in a forward pass."""


class Group(NamedTuple):
    """Regions of one image that are revealed together, by their numbers."""

    owner: int
    regions: Int[Tensor, " n"]


class HideAndSeek:
    """Undoes the changes that the classifier does not need.

    A candidate is a connected region where |x - x'| exceeds `threshold`. Revealed alone, it must lower the probability
    of the counterfactual's target by `gain`; otherwise x' becomes x there. Many are revealed together first: where all
    of them lower it by less, none is needed, and otherwise each half is asked about. An image that f would no longer
    call as it was to be called after all of this keeps its counterfactual as it was.

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
        numbered, groups = _regions(difference > threshold)
        if not groups:
            return counterfactual
        before = _probability(classifier, counterfactual, target)
        verified, few = counterfactual.clone(), max(1, AT_ONCE // difference[0].numel())
        while groups:
            needed = []
            for chosen in (groups[start : start + few] for start in range(0, len(groups), few)):
                owners = torch.tensor([group.owner for group in chosen], device=image.device)
                shown = torch.stack([torch.isin(numbered[owner], regions) for owner, regions in chosen])[:, None]
                revealed = torch.where(shown, image[owners], counterfactual[owners])
                loss = before[owners] - _probability(classifier, revealed, target[owners])
                for group, place, needless in zip(chosen, shown, (loss < self.gain).tolist(), strict=True):
                    if needless:
                        verified[group.owner] = torch.where(place, image[group.owner], verified[group.owner])
                    else:
                        needed.append(group)
            groups = [Group(owner, half) for owner, some in needed if len(some) > 1 for half in some.tensor_split(2)]
        relapsed = (_probability(classifier, verified, target) <= 0.5) & (before > 0.5)
        return torch.where(relapsed.view(-1, *[1] * (image.ndim - 1)), counterfactual, verified)


def _regions(changed: Bool[Tensor, "b *spatial"]) -> tuple[Int[Tensor, "b *spatial"], list[Group]]:
    """The number of each pixel's connected region, 0 = not changed; and each image's largest region, and its others.

    These are in the order of their size, so that specks, of which there are many, stay together.
    """
    structure = ndimage.generate_binary_structure(changed.ndim - 1, changed.ndim - 1)
    numbered = torch.stack([torch.from_numpy(ndimage.label(mask, structure)[0]) for mask in changed.cpu().numpy()])
    groups = []
    for owner, places in enumerate(numbered):
        by_size = places.flatten().bincount()[1:].argsort(descending=True, stable=True) + 1
        groups += [Group(owner, some.to(changed.device)) for some in (by_size[:1], by_size[1:]) if len(some)]
    return numbered.to(changed.device), groups


def _probability(classifier: nn.Module, image: Image, target: Labels) -> Float[Tensor, " b"]:
    """That of each image's target."""
    probability = classifier(image).float().softmax(1)
    return probability.gather(1, target.clamp_max(probability.shape[1] - 1)[:, None])[:, 0]
