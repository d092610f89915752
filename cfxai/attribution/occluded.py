"""Images seen through windows: what hides pixels, and asking about one image many times."""

import torch
from torch import Tensor

from cfxai.protocols import Image, Target


def seen_through(image: Tensor, visible: Tensor, baseline: float) -> Image:
    """One image [c *spatial] through each window [n *spatial], 1 = as it is, 0 = `baseline`: [n c *spatial]."""
    return baseline + visible[:, None] * (image - baseline)


def repeated(target: Target, index: int, count: int, device: torch.device) -> Target:
    """The question about image `index` of the batch, for `count` versions of it."""
    return target[torch.full((count,), index, device=device)]
