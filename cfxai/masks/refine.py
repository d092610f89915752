"""Post-processing of binary masks, per image."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cfxai.errors import ConfigError
from cfxai.protocols import Mask


@dataclass(frozen=True)
class Refine:
    """Opening, then hole filling, then removal of small components; 2-D or 3-D.

    All components that are large enough stay. COIN's post-processing keeps only the largest, which deletes the second
    of two lesions. The defaults suit images of 64 to 128 px; raise them in proportion for larger ones.

    Args:
        opening: radius in px of the ball (1: a cross) that must fit into what is kept; 0 = no opening. The image's
            edge does not erode, so that a lesion cut by it survives.
        fill_holes: background enclosed by the mask joins it.
        min_area: components of fewer px (voxels; connected also by corners) are removed; 0 keeps all.
    """

    opening: int = 1
    fill_holes: bool = True
    min_area: int = 9

    def __post_init__(self) -> None:
        if min(self.opening, self.min_area) < 0:
            raise ConfigError(f"masks.refine: opening={self.opening}, min_area={self.min_area}; neither may be < 0.")

    def __call__(self, mask: Mask) -> Mask:
        refined = np.stack([self._refine(one) for one in mask.cpu().numpy()]) if len(mask) else mask.cpu().numpy()
        return torch.from_numpy(refined).to(mask.device)

    def _refine(self, mask: np.ndarray) -> np.ndarray:
        if self.opening and mask.any():
            ball = _ball(self.opening, mask.ndim)
            mask = ndimage.binary_dilation(ndimage.binary_erosion(mask, ball, border_value=1), ball)
        if self.fill_holes:
            mask = ndimage.binary_fill_holes(mask)
        if self.min_area:
            components, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
            large = np.bincount(components.ravel()) >= self.min_area
            large[0] = False  # the background
            mask = large[components]
        return mask


def _ball(radius: int, dims: int) -> np.ndarray:
    offsets = np.indices((2 * radius + 1,) * dims) - radius
    return (offsets**2).sum(0) <= radius**2
