"""Which score of an ordered head a wish stands for: the boundary, a probability, a grade, a class."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.latents.linear_head import LinearHead
from cfxai.protocols import Labels

Scores = Float[Tensor, " b"]


def beyond_boundary(head: LinearHead, score: Scores, margin: float) -> Scores:
    """`margin` beyond the threshold between normal and any finding, on the side where `score` is not."""
    boundary = head.thresholds[0]
    return boundary + torch.where(score > boundary, -margin, margin)


def of_probability(head: LinearHead, probability: Scores) -> Scores:
    """Where any finding, a label above 0, has this probability.

    Raises:
        ConfigError: not between 0 and 1.
    """
    if not ((probability > 0) & (probability < 1)).all():
        raise ConfigError("probability: must lie between 0 and 1 and be neither.")
    return head.thresholds[0] + torch.logit(probability)


def of_grade(head: LinearHead, grade: Scores) -> Scores:
    """Where `LinearHead.grade` reads this.

    Raises:
        ConfigError: a grade outside the trained range.
    """
    lowest, highest = head.grades[0].item(), head.grades[-1].item()
    if (wrong := ~((grade >= lowest) & (grade <= highest))).any():
        raise ConfigError(f"grade: {grade[wrong][0]:g} is outside the trained range, {lowest} to {highest}.")
    return head.score_at(grade)


def level_of(head: LinearHead, target: Labels) -> Int[Tensor, " b"]:
    """The place of each target among the head's grades.

    Raises:
        ConfigError: a class that the head never saw.
    """
    known = target[:, None] == head.grades.to(target.device)
    if (wrong := ~known.any(1)).any():
        raise ConfigError(f"target: the head never saw class {target[wrong][0]}, only {head.grades.tolist()}.")
    return known.int().argmax(1)


def inside_class(head: LinearHead, score: Scores, level: Int[Tensor, " b"], margin: float) -> Scores:
    """The score nearest to `score` that is `margin` inside the thresholds around a level, at most half-way in."""
    end = torch.full_like(head.thresholds[:1], torch.inf)
    low = torch.cat([-end, head.thresholds])[level] + margin
    high = torch.cat([head.thresholds, end])[level] - margin
    narrow, middle = low > high, (low + high) / 2
    return torch.where(narrow, middle, torch.minimum(torch.maximum(score, low), high))


def deep_in_class(
    head: LinearHead, typical: Float[Tensor, " g"], score: Scores, level: Int[Tensor, " b"], depth: float | Scores
) -> Scores:
    """The score nearest to `score` that is `depth` of the way from a level's boundary to its `typical` score.

    The boundary is the one on the side where `score` is; beyond a typical score there is no further to go.
    """
    end = torch.full_like(head.thresholds[:1], torch.inf)
    low, high = torch.cat([-end, head.thresholds])[level], torch.cat([head.thresholds, end])[level]
    goal, above = typical[level], score > typical[level]
    wanted = torch.where(above, high + depth * (goal - high), low + depth * (goal - low))
    there = torch.where(above, torch.minimum(score, wanted), torch.maximum(score, wanted))
    return torch.where(wanted.isfinite(), there, score)  # beyond the outermost classes there is no boundary
