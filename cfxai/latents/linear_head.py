"""A linear read-out of latents: one direction with thresholds, or one direction for each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "b d"]


@dataclass(frozen=True)
class LinearHead:
    """score = weight · (z - origin) + bias, and what it says.

    With one direction the head is ordered: P(grade <= grades[j]) = sigmoid(thresholds[j] - score). Two grades and one
    threshold at 0 are logistic regression. With a direction for each class, probabilities are the scores' softmax.

    Attributes:
        origin: [d], the training latents' mean.
        weight, bias: [k d], [k]; k = 1 or the number of classes.
        grades: [g], the labels that the head knows, ascending.
        thresholds: [g - 1], ascending: the scores between two grades; [0] when k > 1.
        centres: [g], the score that stands for each grade; [0] when k > 1.
    """

    origin: Float[Tensor, " d"]
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    grades: Int[Tensor, " g"]
    thresholds: Float[Tensor, " t"]
    centres: Float[Tensor, " c"]

    @property
    def ordered(self) -> bool:
        return len(self.weight) == 1

    def score(self, z: Latents) -> Float[Tensor, "b k"]:
        """On the scale of logits, at least in the head's own precision."""
        z = z.to(torch.promote_types(z.dtype, self.weight.dtype))
        return (z - self.origin.to(z)) @ self.weight.to(z).T + self.bias.to(z)

    def probability(self, z: Latents) -> Float[Tensor, "b g"]:
        """Of each of `grades`."""
        score = self.score(z)
        if not self.ordered:
            return score.softmax(1)
        below = torch.sigmoid(self.thresholds - score)
        none, all_of_them = torch.zeros_like(score), torch.ones_like(score)
        return torch.cat([below, all_of_them], 1) - torch.cat([none, below], 1)

    def predicted(self, z: Latents) -> Int[Tensor, " b"]:
        """The median grade; of classes without order the most probable."""
        score = self.score(z)
        return self.grades[(score > self.thresholds).sum(1) if self.ordered else score.argmax(1)]

    def grade(self, z: Latents, *, clipped: bool = True) -> Float[Tensor, " b"]:
        """Between the grades: g at its centre, half-way at a threshold, linear in the score in between.

        Rounded it is `predicted`. Without `clipped`, the outermost pieces go on beyond the lowest and highest grade.
        """
        return _piecewise(self.score(z)[:, 0], *self._knots(), clipped=clipped)

    def score_at(self, grade: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The score of a grade; `grade` backwards."""
        scores, grades = self._knots()
        return _piecewise(grade, grades, scores, clipped=True)

    def _knots(self) -> tuple[Tensor, Tensor]:
        """Scores, and the grades they stand for: centres and thresholds in turn."""
        grades = self.grades.to(self.centres)
        between = (grades[1:] + grades[:-1]) / 2
        scores = torch.stack([self.centres[:-1], self.thresholds], 1).flatten()
        values = torch.stack([grades[:-1], between], 1).flatten()
        return torch.cat([scores, self.centres[-1:]]), torch.cat([values, grades[-1:]])


def ordered_head(
    origin: Float[np.ndarray, " d"],
    weight: Float[np.ndarray, " d"],
    bias: float,
    *,
    grades: Sequence[int] | Int[np.ndarray, " g"] = (0, 1),
    thresholds: Sequence[float] | Float[np.ndarray, " t"] = (0.0,),
    centres: Float[np.ndarray, " g"] | None = None,
) -> LinearHead:
    """A head of one direction.

    Without `centres`, a grade's is the middle of its interval, where it is most probable. The outermost grades have
    none: theirs lie as far beyond the last threshold as the neighbour's before it; of two grades, where each has
    probability 3/4.
    """
    thresholds = np.asarray(thresholds, float)
    if centres is None:
        inner = (thresholds[1:] + thresholds[:-1]) / 2
        half = np.diff(thresholds) / 2 if len(thresholds) > 1 else np.full(1, np.log(3.0))
        centres = np.concatenate([[thresholds[0] - half[0]], inner, [thresholds[-1] + half[-1]]])
    return linear_head(origin, weight[None], np.array([bias]), grades, thresholds, centres)


def outstretched(centres: Float[Tensor, " g"], typical: Sequence[Tensor]) -> Float[Tensor, " g"]:
    """The centres, those of the outermost grades moved out to these grades' `typical` scores, where these lie further.

    A worst grade has no end: were its centre beside the last threshold, most of what is that bad would be beyond it.
    """
    lowest, highest = torch.minimum(centres[0], typical[0]), torch.maximum(centres[-1], typical[-1])
    return torch.cat([lowest[None], centres[1:-1], highest[None]])


def linear_head(
    origin: Float[np.ndarray, " d"],
    weight: Float[np.ndarray, "k d"],
    bias: Float[np.ndarray, " k"],
    grades: Sequence[int] | Int[np.ndarray, " g"],
    thresholds: Sequence[float] | Float[np.ndarray, " t"] = (),
    centres: Sequence[float] | Float[np.ndarray, " c"] = (),
) -> LinearHead:
    """A head in double precision."""

    def tensor(values: Sequence[float] | Float[np.ndarray, "..."]) -> Tensor:
        return torch.from_numpy(np.array(values, float))

    return LinearHead(
        origin=tensor(origin),
        weight=tensor(weight),
        bias=tensor(bias),
        grades=torch.from_numpy(np.array(grades, np.int64)),
        thresholds=tensor(thresholds),
        centres=tensor(centres),
    )


def _piecewise(x: Tensor, xs: Tensor, ys: Tensor, *, clipped: bool) -> Tensor:
    """The line through the points (xs, ys) at x."""
    xs, ys = xs.to(x), ys.to(x)
    right = torch.searchsorted(xs, x.detach().contiguous()).clamp(1, len(xs) - 1)
    left = right - 1
    width = (xs[right] - xs[left]).clamp_min(torch.finfo(xs.dtype).tiny)
    part = (x - xs[left]) / width
    if clipped:
        part = part.clamp(0, 1)
    return ys[left] + part * (ys[right] - ys[left])
