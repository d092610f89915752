"""Generators on images too large for one pass: overlapping patches, blended."""

from collections.abc import Callable, Sequence

from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels

Generator = Callable[[Image, Labels], Image]
"""(image, condition) -> counterfactual, of any size."""


def patchwise(
    generator: Generator, image: Image, condition: Labels, patch: int | Sequence[int] | None, overlap: float = 0.25
) -> Image:
    """The generator's counterfactual [b c *spatial] in [-1, 1], made from one patch at a time.

    Overlapping patches are blended with Gaussian weights about their centres. What is blended is the change G(x) - x:
    where the generator leaves the image alone, so does the result, exactly. Memory for activations is that of one patch
    of one image, but G sees no further than its patch. A patch at least as large as the image is G's own pass.

    Args:
        generator: G.
        image: [b c *spatial] in [-1, 1].
        condition: [b], what G is told of each image, and so of every patch of it.
        patch: pixels along each axis, or along all; null = the whole image.
        overlap: of neighbouring patches, as a share of the patch, at least 0 and less than 1.

    Raises:
        ConfigError: a patch or an overlap out of range.
    """
    sides = image.shape[2:]
    wanted = sides if patch is None else [patch] * len(sides) if isinstance(patch, int) else patch
    if len(wanted) != len(sides) or min(wanted) < 1:
        raise ConfigError(f"method.patch: {patch} must be 1 or more pixels along each of {len(sides)} axes.")
    if not 0 <= overlap < 1:
        raise ConfigError(f"method.overlap: {overlap} must be at least 0 and less than 1.")
    window = [min(pair) for pair in zip(wanted, sides, strict=True)]
    if window == list(sides):
        return generator(image, condition)

    from monai.inferers import SlidingWindowInferer

    slide = SlidingWindowInferer(window, sw_batch_size=1, overlap=overlap, mode="gaussian")
    changed = image.clone()
    for one, told, result in zip(image.split(1), condition.split(1), changed.split(1), strict=True):

        def change(part: Image, told: Labels = told) -> Tensor:
            return generator(part, told) - part

        result += slide(one, change)
    return changed.clamp(-1, 1)
