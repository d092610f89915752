"""Whether global average pooling and one linear layer are all that follows a network's layer."""

import torch
from torch import Tensor

from cfxai.attribution.target_layer import TargetLayer
from cfxai.protocols import Image, Target

ROUNDING, EPSILON = 1e-3, 1e-5
"""What float32 may add to a sum of gradients, and to a score, relative to each."""


def is_pooled_and_linear(
    layer: TargetLayer, image: Image, target: Target, maps: Tensor, gradient: Tensor, score: Tensor
) -> bool:
    """Whether the score is affine in the means of the maps [b c *small], as gradients and one far-away point tell.

    The gradient must be the same at all positions, and must foretell the first image's score with other, random maps.
    """
    means = gradient.flatten(2).mean(2)
    if (gradient.flatten(2) - means[..., None]).abs().max() > ROUNDING * gradient.abs().max():
        return False
    random = torch.Generator().manual_seed(0)
    spread = maps[0].std().clamp_min(torch.finfo(maps.dtype).tiny)
    other = maps[0].mean() + 3 * spread * torch.randn(maps.shape[1], generator=random).to(maps)
    other = other.view(1, -1, *[1] * (maps.ndim - 2)).expand_as(maps[:1])
    with torch.no_grad():
        found = target[torch.zeros(1, dtype=torch.long, device=maps.device)].score(layer.resume(image[:1], other))
    change = (gradient[0] * (other[0] - maps[0])).sum()
    allowed = ROUNDING * change.abs() + EPSILON * (found.abs() + score[:1].abs())
    return bool(((found - score[:1] - change).abs() <= allowed).all())
