"""What the page shows: slices as 8 bit pictures of a handy size, and maps laid over them."""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from PIL import Image as Pil
from skimage.segmentation import find_boundaries

from cfxai.viz import HIT, Picture

SMALLEST, LARGEST = 480, 1024
"""Pixels of the longer side on the page."""


def picture(values: Picture) -> Pil.Image:
    """[0, 1] to 8 bit; small ones are enlarged by whole factors, large ones shrunk."""
    drawn = Pil.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))
    longer = max(drawn.size)
    if longer > LARGEST:
        drawn.thumbnail((LARGEST, LARGEST), Pil.Resampling.BOX)
    elif longer < SMALLEST:
        factor = -(-SMALLEST // longer)
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Pil.Resampling.NEAREST)
    return drawn.convert("RGB")


def overlay(image: Picture, strength: Float[np.ndarray, "h w"], top: float, opacity: float) -> Pil.Image:
    """An image under a map whose value `top` has the full colour; where the map is 0 the image is as it was."""
    image, strength = _handy(image), _handy(strength)
    share = np.clip(strength / max(top, 1e-12), 0, 1)
    cover = opacity * np.sqrt(share)[..., None]
    return picture((1 - cover) * _rgb(image) + cover * colormaps["inferno"](share)[..., :3])


def outlined(image: Pil.Image, mask: Bool[np.ndarray, "h w"]) -> Pil.Image:
    """A drawn picture with the border of a mask."""
    at_size = Pil.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Pil.Resampling.NEAREST)
    drawn = np.array(image)
    drawn[find_boundaries(np.asarray(at_size) > 0, mode="thick")] = np.round(np.array(HIT) * 255)
    return Pil.fromarray(drawn)


def _rgb(image: Picture) -> Float[np.ndarray, "h w 3"]:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)


def _handy(values: Picture) -> Picture:
    """Means of blocks, where there are more pixels than the page shows."""
    factor = -(-max(values.shape[:2]) // LARGEST)
    if factor == 1:
        return values
    height, width = (side // factor * factor for side in values.shape[:2])
    blocks = values[:height, :width].reshape(height // factor, factor, width // factor, factor, *values.shape[2:])
    return blocks.mean((1, 3))
