"""Where the body is: what is not dark and joined to the image's edge."""

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from skimage.filters import threshold_otsu

from cfxai.protocols import Image, Mask

BLUR = 0.01  # of the longest side: noise and thin lines do not count
DARK = -0.5  # in [-1, 1]: whatever is brighter is not air
FLOOR = 1.0  # percentile that stands for air: a few dead pixels do not


def find_body(image: Image) -> Mask:
    """[b c *spatial] in [-1, 1] to the body [b *spatial], as one piece without holes.

    Air is darker than the middle between the image's darkest pixels and Otsu's threshold, and joined to the edge: dark
    lungs are part of the body, a marker or a tube beside it is not. All of an image without air is body.
    """
    grey = image.detach().mean(1).float().cpu().numpy()
    return torch.from_numpy(np.stack([_body(one) for one in grey])).to(image.device)


def _body(grey: np.ndarray) -> Bool[np.ndarray, "*spatial"]:
    smooth = ndimage.gaussian_filter(grey, BLUR * max(grey.shape))
    dark = smooth < min((np.percentile(smooth, FLOOR) + threshold_otsu(smooth)) / 2, DARK)
    parts, _ = ndimage.label(np.pad(dark, 1, constant_values=True))  # the frame joins air at all sides
    whole = tuple(slice(1, -1) for _ in grey.shape)
    inside = parts[whole] != parts.flat[0]
    parts, count = ndimage.label(inside)
    if count > 1:
        inside = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(inside)
