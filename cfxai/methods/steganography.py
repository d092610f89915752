"""Does a translation hide its original in itself? (Chu et al. 2017, CycleGAN, a master of steganography.)

The cycle loss rewards generators that write what they removed into faint patterns, from which the way back restores it
(arXiv:1712.02950). Such an image explains less than it seems to: what looks removed is still there. Hidden patterns do
not survive a blur, nor 256 levels; an honest translation does.
"""

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from cfxai.protocols import Explainer, Image, Labels


@torch.no_grad()
def cycle_errors(
    explainer: Explainer, image: Image, source: Labels, target: Labels, *, sigma: float = 1.0
) -> dict[str, Float[Tensor, " b"]]:
    """mean |x - back(damaged(there(x)))| / 2 of each image, in [0, 1], by what its translation goes through.

    `plain`: nothing; `rounded`: 256 levels; `blurred`: a Gaussian blur. `rounded` far above `plain` shows hidden
    information. A blur takes honest detail too, as much as `blur_alone` = mean |x - blurred(x)| / 2 says.

    Args:
        explainer: there = its counterfactuals for `target`, back = those for `source`.
        image: [b c *spatial] in [-1, 1]. source, target: [b], the classes of the images and of their translations.
        sigma: of the blur, pixels.
    """
    there = explainer.generate(image, target).counterfactual

    def error(damaged: Image) -> Float[Tensor, " b"]:
        return _distance(image, explainer.generate(damaged, source).counterfactual)

    return {
        "plain": error(there),
        "rounded": error(rounded(there)),
        "blurred": error(blurred(there, sigma)),
        "blur_alone": _distance(image, blurred(image, sigma)),
    }


def rounded(image: Image) -> Image:
    """To 256 levels, as an 8-bit file keeps them."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def blurred(image: Image, sigma: float) -> Image:
    """By a Gaussian of `sigma` pixels, as if each border pixel went on outside."""
    axes = tuple(range(2, image.ndim))
    filtered = ndimage.gaussian_filter(image.cpu().numpy(), sigma, axes=axes, mode="nearest")
    return torch.from_numpy(filtered).to(image)


def _distance(a: Image, b: Image) -> Float[Tensor, " b"]:
    return (a - b).abs().flatten(1).mean(1) / 2
