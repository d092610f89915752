"""Superpixels: pieces of similar intensity, for images of which no anatomy is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from skimage.segmentation import slic

from cfxai.errors import ConfigError
from cfxai.protocols import RegionMaps


class Superpixels:
    """SLIC superpixels or supervoxels that partition each image (Achanta et al. 2012), "superpixel 1" and so on.

    They are numbered from the upper left, but number 3 of one image is not number 3 of the next: use them to ask where
    in one image, not to compare groups. An image in which fewer are found leaves the last ones empty.

    Args:
        count: of superpixels.
        compactness: higher = squarer; 0.1 suits images of full contrast.

    Raises:
        ConfigError: a count below 1, or compactness not above 0.
    """

    def __init__(self, *, count: int = 16, compactness: float = 0.1) -> None:
        if count < 1 or compactness <= 0:
            raise ConfigError(
                f"regions: count={count} must be 1 or more and compactness={compactness:g} greater than 0."
            )
        self.count, self.compactness = count, compactness
        self.names = [f"superpixel {number}" for number in range(1, count + 1)]

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        image = batch["image"]
        found = np.stack([self._labels(one) for one in image.detach().cpu().float().numpy()])
        which = np.arange(1, self.count + 1).reshape(-1, *[1] * (found.ndim - 1))
        return torch.from_numpy((found[:, None] == which).astype(np.float32)).to(image.device)

    def _labels(self, image: Float[np.ndarray, "c *spatial"]) -> Int[np.ndarray, "*spatial"]:
        """1 … at most `count`."""
        asked = self.count
        while True:  # SLIC takes the number as advice
            found = slic(
                np.moveaxis(image, 0, -1) / 2 + 0.5,
                n_segments=asked,
                compactness=self.compactness,
                channel_axis=-1,
                convert2lab=False,
                start_label=1,
            )
            _, numbered = np.unique(found, return_inverse=True)
            if numbered.max() < self.count:
                return numbered.reshape(found.shape) + 1
            asked -= 1
