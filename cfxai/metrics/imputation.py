"""What takes the place of pixels that a metric removes."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from monai.networks.layers import GaussianFilter
from torch import Tensor

from cfxai.protocols import Image

BLUR = 1 / 16
"""Standard deviation of the blur, as a part of the shortest side: lesions vanish, organs keep their brightness."""
TOLERANCE = 1e-5
"""Of the linear solver: residual over right-hand side, far below the noise that is added."""


def black(image: Image) -> Image:
    """The lowest intensity everywhere."""
    return torch.full_like(image, -1.0)


def blurred(image: Image) -> Image:
    """The image under a Gaussian of a sixteenth of its shortest side; beyond the border it is black."""
    sides = image.shape[2:]
    return GaussianFilter(len(sides), BLUR * min(sides)).to(image.device)(image + 1) - 1


BASELINES: dict[str, Callable[[Image], Image]] = {"black": black, "blur": blurred}


def noisy_linear(
    image: Float[Tensor, "c *spatial"], missing: Bool[Tensor, "n *spatial"], *, noise: float = 0.02, seed: int = 0
) -> Float[Tensor, "n c *spatial"]:
    """The image with the `missing` pixels of each of n masks imputed by their neighbours, and noise.

    Rong et al. 2022, arXiv:2202.00449: every missing pixel is the weighted mean of its neighbours, missing or not, 1/6
    for those beside it and 1/12 for those across a corner, less at the border of the image. In volumes weights halve
    in the same way with each further axis in which neighbours differ. Unlike a constant, this leaves no outline from
    which a classifier could read where pixels were removed.

    Args:
        image: in [-1, 1].
        missing: in each mask at least one pixel must be there.
        noise: standard deviation of what is added, in units of the image; 0.02 is 1 % of the range.
        seed: of the noise, which is the same for all masks and images of a size.
    """
    n, c = len(missing), len(image)
    gone = missing[:, None].expand(n, c, *image.shape[1:]).flatten(0, 1).float()
    there = image.expand(n, *image.shape).flatten(0, 1) * (1 - gone)
    weight = _neighbours(torch.ones_like(gone[:1]))

    def equations(unknown: Tensor) -> Tensor:
        return gone * (weight * unknown - _neighbours(unknown))

    smooth = there + _conjugate_gradient(equations, gone * _neighbours(there))
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
    return smooth.unflatten(0, (n, c)) + noise * random * missing[:, None]


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours, [n *spatial]: 1/2 for each axis in which they differ.

    (1/2, 1, 1/2) along each axis less the pixel itself: in pictures 1/2 and 1/4, in the ratio of 1/6 and 1/12.
    """
    total = values
    for axis in range(1, values.ndim):
        wider, inner = total.clone(), total.shape[axis] - 1
        wider.narrow(axis, 1, inner).add_(total.narrow(axis, 0, inner), alpha=0.5)
        wider.narrow(axis, 0, inner).add_(total.narrow(axis, 1, inner), alpha=0.5)
        total = wider
    return total - values


def _conjugate_gradient(equations: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solves symmetric positive definite systems [n *spatial], all at once, from 0 (Hestenes and Stiefel 1952)."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, *[1] * (right.ndim - 1))

    tiny = torch.finfo(right.dtype).tiny
    solution, residual, direction = torch.zeros_like(right), right, right
    squared = dot(residual, residual)
    goal = TOLERANCE**2 * squared
    for _ in range(right[0].numel()):
        if not (squared > goal).any():
            break
        changed = equations(direction)
        step = squared / dot(direction, changed).clamp_min(tiny)
        solution, residual = solution + step * direction, residual - step * changed
        before, squared = squared, dot(residual, residual)
        direction = residual + squared / before.clamp_min(tiny) * direction
    return solution
