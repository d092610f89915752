"""What a map is about: a class, a finding, the contrast of two classes, or the marked part of a segmentation.

Each reads a network's output [b k *spatial]; one logit z, [b 1], is read as [0, z].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cfxai.errors import UnsuitableError
from cfxai.protocols import Labels, Target


@dataclass(frozen=True)
class ClassLogit:
    """The logit of one class per image; its probability is the softmax over classes. What plain labels stand for."""

    label: Labels

    def score(self, output: Tensor) -> Float[Tensor, " b"]:
        return _logits(output).gather(1, self.label[:, None])[:, 0]

    def probability(self, output: Tensor) -> Float[Tensor, " b"]:
        return _logits(output).softmax(1).gather(1, self.label[:, None])[:, 0]

    def __getitem__(self, images: int | slice | Tensor) -> "ClassLogit":
        return ClassLogit(_some(self.label, images))


@dataclass(frozen=True)
class Finding:
    """One finding of a multi-label head, whose logits do not compete: the probability is the sigmoid."""

    label: Labels

    def score(self, output: Tensor) -> Float[Tensor, " b"]:
        return output.gather(1, self.label[:, None])[:, 0]

    def probability(self, output: Tensor) -> Float[Tensor, " b"]:
        return self.score(output).sigmoid()

    def __getitem__(self, images: int | slice | Tensor) -> "Finding":
        return Finding(_some(self.label, images))


@dataclass(frozen=True)
class Contrast:
    """z_a - z_b: what speaks for class a rather than b. The same question for every image of a study.

    The probability is the one of a when only a and b are possible.
    """

    a: int
    b: int

    def score(self, output: Tensor) -> Float[Tensor, " b"]:
        logits = _logits(output)
        return logits[:, self.a] - logits[:, self.b]

    def probability(self, output: Tensor) -> Float[Tensor, " b"]:
        return self.score(output).sigmoid()

    def __getitem__(self, images: int | slice | Tensor) -> "Contrast":
        return self


@dataclass(frozen=True)
class MaskedSum:
    """The sum of a segmentation network's logits of one class, [b k *spatial], over `mask` [b *spatial].

    The probability is the class's mean softmax over the mask.

    Raises:
        UnsuitableError: (when asked) the network's output is not a map of the mask's size.
    """

    label: int
    mask: Bool[Tensor, "b *spatial"]

    def score(self, output: Tensor) -> Float[Tensor, " b"]:
        return (self._map(output)[:, self.label] * self.mask).flatten(1).sum(1)

    def probability(self, output: Tensor) -> Float[Tensor, " b"]:
        inside = (self._map(output).softmax(1)[:, self.label] * self.mask).flatten(1).sum(1)
        return inside / self.mask.flatten(1).sum(1).clamp_min(1)

    def __getitem__(self, images: int | slice | Tensor) -> "MaskedSum":
        return MaskedSum(self.label, _some(self.mask, images))

    def _map(self, output: Tensor) -> Tensor:
        if output.shape[2:] != self.mask.shape[1:]:
            raise UnsuitableError(
                f"target: a masked sum needs a segmentation network with outputs of the mask's size "
                f"{tuple(self.mask.shape[1:])}, not {tuple(output.shape[2:])}."
            )
        return output if output.shape[1] > 1 else torch.cat([torch.zeros_like(output), output], 1)


def as_target(target: Labels | Target) -> Target:
    """Labels as the logits of those classes; a target as it is."""
    return ClassLogit(target.clone()) if isinstance(target, Tensor) else target


def _logits(output: Tensor) -> Tensor:
    return F.pad(output, (1, 0)) if output.shape[1] == 1 else output


def _some(values: Tensor, images: int | slice | Tensor) -> Tensor:
    return values[images : images + 1] if isinstance(images, int) else values[images]
