"""Both lungs in frontal chest X-rays, found by their darkness and shape; nothing is trained and nothing downloaded.

A drawn pair of lungs is moved and stretched over a small copy of the image until it correlates best with what is dark
there. Then each pixel near a lung's edge goes to the side whose brightness it has, and the outline is smoothed. So a
lung white with pneumonia still gets an outline where its shape belongs, which a threshold alone would not give.

On 100 random paediatric X-rays that it was not tuned on (Kermany et al. 2018, 52 with pneumonia; 128 px), 92 pairs
looked right by eye, 2 were not found and 6 were wrong: rotated or cut-off chests, very large hearts. An image takes
0.06 s. It does not tell chests from other images. To measure lungs themselves, use a trained network.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from skimage.feature import match_template
from skimage.morphology import disk
from skimage.transform import resize

from cfxai.errors import DataError
from cfxai.protocols import RegionMaps
from cfxai.regions.body import find_body

RIGHT, LEFT = 1, 2

# Finding the pair: a copy of 32 x 32 px, on which a pair is up to 30 px high and wide.
COARSE = 32
BEYOND = COARSE // 8  # px by which a pair may lie outside the image
SIDES = range(COARSE // 2 - 2, COARSE, 2)
ASPECTS = (0.7, 1.5)  # width / height
HEARTS = (1.0, 1.6)  # a usual and a large one
LARGE = 0.6  # exponent of the pair's area: else the upper lungs alone, which are darkest, often fit best
CENTRED = 0.4  # points off for a pair whose midline is a whole image width off the centre

# Outlining it: a copy of 96 x 96 px.
FINE = 96
SOFT = 0.035  # of the image: how far from the drawn edge a pixel's place weighs as much as one unit of log-likelihood
EVIDENCE = 2.0  # units of log-likelihood that brightness may weigh: edges move by at most 7 % of the image at a time


class Lungs:
    """ "right lung" and "left lung", the patient's: the right one is at the image's left.

    An image in which nothing correlates enough with a pair of lungs has two empty regions, whose scores are NaN.

    Args:
        least: correlation of image and drawn lungs below which they count as not found, in [0, 1].

    Raises:
        DataError: (when called) images that are not pictures.
    """

    def __init__(self, *, least: float = 0.3) -> None:
        self.least = least
        self.names = ["right lung", "left lung"]

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        image = batch["image"]
        if image.ndim != 4:
            raise DataError("regions: lungs are found in frontal X-rays, which are pictures; name other regions.")
        grey = image.detach().mean(1).float().cpu().numpy()
        found = np.stack([_maps(one, self.least) for one in grey])
        return torch.from_numpy(found).to(image.device) * find_body(image)[:, None]


def _maps(grey: Float[np.ndarray, "h w"], least: float) -> Float[np.ndarray, "2 h w"]:
    pair = _find(grey, least)
    if pair is None:
        return np.zeros((2, *grey.shape), np.float32)
    fine = ndimage.gaussian_filter(resize(grey, (FINE, FINE), anti_aliasing=True), 1.5)  # without ribs
    lungs = _outline(fine, _outline(fine, _draw(FINE, *pair)))
    sides = (resize((lungs == side).astype(float), grey.shape, order=1) for side in (RIGHT, LEFT))
    return np.stack([side > 0.5 for side in sides]).astype(np.float32)


def _drawn(v: Float[np.ndarray, "h w"], u: Float[np.ndarray, "h w"], heart: float) -> Int[np.ndarray, "h w"]:
    """The drawing: v from 0 at the apices to 1 at the lowest point, u from -1 at the image's left to 1; 0 outside.

    Apices are narrow, bases wide; the heart takes its place below, more of it from the left lung; the diaphragm falls
    towards the sides.
    """
    off = np.abs(u)
    lateral = 0.3 + 0.7 * np.sqrt(np.clip(1 - np.clip(1 - v, 0, 1) ** 2.2, 0, 1))
    low = np.clip((v - 0.35) / 0.5, 0, 1)
    medial = 0.12 + heart * np.where(u > 0, 0.33 * low**1.2, 0.14 * low)
    floor = 0.84 + 0.16 * np.clip((off - 0.2) / 0.8, 0, 1)
    inside = (off > medial) & (off < lateral) & (v > 0) & (v < floor)
    return np.where(inside, np.where(u > 0, LEFT, RIGHT), 0)


def _draw(
    side: int, top: float, left: float, height: float, width: float, heart: float
) -> Int[np.ndarray, "side side"]:
    """The drawing on `side` x `side` px; its place and size as parts of the image."""
    centre = (np.arange(side) + 0.5) / side
    return _drawn(*np.meshgrid((centre - top) / height, 2 * (centre - left) / width - 1, indexing="ij"), heart)


@cache
def _template(height: int, width: int, heart: float) -> tuple[Float[np.ndarray, "h w"], int, int]:
    """Bright around dark lungs of that size in px, and its margins above and beside them."""
    above, below, beside = round(height * 0.10), round(height * 0.18), round(width * 0.09)
    v = (np.arange(-above, height + below) + 0.5) / height
    u = 2 * (np.arange(-beside, width + beside) + 0.5) / width - 1
    outside = _drawn(*np.meshgrid(v, u, indexing="ij"), heart) == 0
    return ndimage.gaussian_filter(outside.astype(float), COARSE / 64), above, beside


def _find(grey: Float[np.ndarray, "h w"], least: float) -> tuple[float, float, float, float, float] | None:
    """Top, left, height and width of the pair, as parts of the image, and how large the heart is."""
    small = ndimage.gaussian_filter(resize(grey, (COARSE, COARSE), anti_aliasing=True), COARSE / 64)
    reach = 0.19 * COARSE  # local contrast, since exposure differs from side to side
    contrast = small - ndimage.gaussian_filter(small, reach)
    contrast /= np.sqrt(ndimage.gaussian_filter(contrast**2, reach)) + 0.04
    searched = np.pad(contrast, BEYOND, mode="edge")
    best, correlation, place = -np.inf, 0.0, (0.0, 0.0, 1.0, 1.0, 1.0)
    for height, width, heart in product(SIDES, SIDES, HEARTS):
        template, above, beside = _template(height, width, heart)
        fits = all(np.less_equal(template.shape, searched.shape))
        if not (fits and ASPECTS[0] < width / height < ASPECTS[1]):
            continue
        found = match_template(searched, template)
        midline = np.arange(found.shape[1]) - BEYOND + beside + width / 2
        rated = found * (height * width / COARSE**2) ** LARGE - CENTRED * np.abs(midline / COARSE - 0.5)
        row, column = np.unravel_index(rated.argmax(), rated.shape)
        if rated[row, column] > best:
            best, correlation = rated[row, column], found[row, column]
            top, left = (row - BEYOND + above) / COARSE, (column - BEYOND + beside) / COARSE
            place = (float(top), float(left), height / COARSE, width / COARSE, heart)
    return place if correlation >= least else None


def _outline(grey: Float[np.ndarray, "h w"], drawn: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """The drawn lungs with their edges moved towards those that the image has; again, for those farther off."""
    depth = {side: _depth(drawn == side) / FINE for side in (RIGHT, LEFT)}
    lungs = np.zeros_like(drawn)
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        core = depth[side] > 0.01
        around = (depth[side] < -0.015) & (depth[side] > -0.10) & (depth[other] < -0.015)
        if not (core.any() and around.any()):
            continue
        wanted = _evidence(grey, core, around) + depth[side] / SOFT > 0
        lung = _tidy(wanted & (depth[side] > depth[other]), core)
        lungs[lung & (lungs == 0)] = side
    return lungs


def _depth(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Distance to the mask's edge in px, > 0 inside."""
    return ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)


def _evidence(
    grey: Float[np.ndarray, "h w"], core: Bool[np.ndarray, "h w"], around: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Log-likelihood ratio of lung against its surroundings, two normal distributions of one variance; bounded."""
    dark, bright = grey[core].mean(), grey[around].mean()
    if bright <= dark:
        return np.zeros_like(grey)
    deviation = np.sqrt((grey[core].var() + grey[around].var()) / 2) + 0.04
    return np.clip((bright - dark) / deviation**2 * ((dark + bright) / 2 - grey), -EVIDENCE, EVIDENCE)


def _tidy(mask: Bool[np.ndarray, "h w"], core: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Without spurs, the piece with most of the core, smooth and without holes."""
    pieces, count = ndimage.label(ndimage.binary_opening(mask, disk(2)))
    if not count:
        return np.zeros_like(mask)
    piece = pieces == 1 + np.argmax(ndimage.sum_labels(core, pieces, range(1, count + 1)))
    closed = ndimage.binary_closing(np.pad(piece, 3), disk(3))[3:-3, 3:-3]
    return ndimage.binary_fill_holes(closed)
