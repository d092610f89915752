"""Asking again for what a rendering did not show: a rendering answers to a move of z, but rarely by just as much."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from cfxai.latents.destinations import Scores
from cfxai.protocols import Image

Render = Callable[[Scores, Int[Tensor, " b"]], tuple[Image, Scores]]
"""Scores asked for, and of which images -> the images, and the scores that are read in them."""

FURTHEST = 3.0
"""What is asked for at most, in multiples of the way from an image's own score to the one that is wanted."""
FLATTEST, STEEPEST = 0.25, 4.0
"""How much of what is asked for more is taken to show, at least and at most."""
NEAREST_ENDS = 0.1
"""What lies between two answers is not asked for nearer to one of them than by this share."""


def corrected(render: Render, own: Scores, wanted: Scores, *, corrections: int, close: float) -> Image:
    """The images, rendered so that the scores read in them are as wanted, or the nearest to it of all that were tried.

    False position, image by image: the first request is what is wanted. Each further one lies where the line through
    the nearest answers on both sides, one too little and one too much, meets it; while all are too little, where the
    line through the last two does. That nothing needs to be asked for to read an image's `own` score is known.

    Args:
        own: what is read in the images. wanted: what shall be.
        corrections: further requests, at most. close: no more of them for images whose score is as near as this.
    """
    way, everyone = wanted - own, torch.arange(len(own), device=own.device)
    best, read = render(wanted, everyone)
    error = (read - wanted).abs()
    asked, answer = torch.ones_like(way), (read - own) / way  # in ways: 0 is the image's own score, 1 the wanted one
    less = less_answer = torch.zeros_like(way)
    more = more_answer = torch.full_like(way, torch.nan)
    slope = torch.ones_like(way)
    for _ in range(corrections):
        short = answer < 1
        steepness = ((answer - less_answer) / (asked - less)).clamp(FLATTEST, STEEPEST)
        slope = torch.where(short, steepness, slope)
        less, less_answer = torch.where(short, asked, less), torch.where(short, answer, less_answer)
        more, more_answer = torch.where(short, more, asked), torch.where(short, more_answer, answer)
        part = ((1 - less_answer) / (more_answer - less_answer)).clamp(NEAREST_ENDS, 1 - NEAREST_ENDS)
        beyond = (less + (1 - less_answer) / slope).clamp_max(FURTHEST)
        asked = torch.where(more.isnan(), beyond, less + part * (more - less))
        further = asked > less  # not so where `FURTHEST` was too little, and asked is no number after that
        todo = ((error > close) & (way.abs() > close) & further).nonzero()[:, 0]
        if not len(todo):
            break
        image, read = render((own + asked * way)[todo], todo)
        answer = answer.index_copy(0, todo, (read - own[todo]) / way[todo])
        nearer = (read - wanted[todo]).abs() < error[todo]
        best[todo[nearer]], error[todo[nearer]] = image[nearer], (read - wanted[todo]).abs()[nearer]
    return best
