"""Whether a map stays when the image hardly changes, and says what a change of the image does to the classifier.

Both are of Yeh et al. 2019, arXiv:1901.09392, and take any `attribute(image, target)`, signed and unscaled, 2-D or 3-D.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cfxai.protocols import Image, Labels, Saliency, Target

Attribute = Callable[[Image, Labels | Target], Saliency]
PerImage = Float[Tensor, " b"]


def max_sensitivity(
    attribute: Attribute,
    image: Image,
    target: Labels | Target,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> PerImage:
    """max |A(x + d) - A(x)| / |A(x)| over `samples` random d, euclidean norms; 0 = the map does not move.

    NaN for a map of zeros. The maximum over samples is a lower bound of the one over all d.

    Args:
        radius: of d, uniform in [-radius, radius] at each pixel; 2 is the whole intensity range, so the default is 1 %
            of it. The changed image is kept in [-1, 1].
        seed: of d, which is the same for every image.
    """
    random = torch.Generator().manual_seed(seed)
    base = attribute(image, target).flatten(1)
    moved = torch.zeros_like(base[:, 0])
    for _ in range(samples):
        change = radius * (2 * torch.rand(image.shape[1:], generator=random) - 1)
        near = (image + change.to(image)).clamp(-1, 1)
        moved = torch.maximum(moved, (attribute(near, target).flatten(1) - base).norm(dim=1))
    norm = base.norm(dim=1)
    return torch.where(norm > 0, moved / norm, torch.nan)


def infidelity(
    attribute: Attribute,
    score: Callable[[Image], PerImage],
    image: Image,
    target: Labels | Target,
    *,
    deviation: float = 0.2,
    samples: int = 50,
    seed: int = 0,
) -> PerImage:
    """E (b I.A(x) - (f(x) - f(x - I)))^2 / E (f(x) - f(x - I))^2, I Gaussian noise, f the score that A explains.

    The map is scaled by the b that suits each image best, since most methods' maps have no scale (as the authors do to
    compare methods). The error is divided by that of a map of zeros, so that it reads as the share of the score's
    changes that the map does not explain: 0 = all, 1 = none. NaN where the score never changes.

    Args:
        score: images to the number explained, for instance the target's logit.
        deviation: standard deviation of I in units of the image, the same in all of its channels.
        samples: draws of I, the same for every image.
        seed: of I.
    """
    random = torch.Generator().manual_seed(seed)
    saliency = attribute(image, target).flatten(1).double()
    claimed, happened = [], []
    with torch.no_grad():
        before = score(image)
        for _ in range(samples):
            noise = deviation * torch.randn(image.shape[2:], generator=random).to(image)
            claimed.append(saliency @ noise.flatten().double())
            happened.append((before - score(image - noise)).double())
    said, true = torch.stack(claimed, 1), torch.stack(happened, 1)
    whole = (true**2).mean(1)
    scale = (said * true).sum(1) / (said**2).sum(1).clamp_min(torch.finfo(said.dtype).tiny)
    error = ((scale[:, None] * said - true) ** 2).mean(1)
    return torch.where(whole > 0, error / whole, torch.nan)
