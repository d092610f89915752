"""Occlusion by a sliding window (Zeiler and Fergus 2014, arXiv:1311.2901)."""

from math import prod
from string import ascii_lowercase

import torch
from torch import Tensor, nn

from cfxai.attribution.occluded import repeated, seen_through
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.nn.fold import fast_inference
from cfxai.protocols import Image, Labels, Saliency, Target


class Occlusion:
    """How much the target's score drops when a window hides a pixel, averaged over the windows that hide it.

    Windows start at 0, stride, 2 stride … along each axis, until one reaches the end of the image, where it is cut.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        window: its side, in pixels; at most the image's.
        stride: pixels from one window to the next, at most `window`.
        baseline: what a hidden pixel becomes, in [-1, 1].
        batch_size: windows per forward pass.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        window: int = 16,
        stride: int = 8,
        baseline: float = -1.0,
        batch_size: int = 256,
    ) -> None:
        if min(window, stride, batch_size) < 1 or stride > window:
            raise ConfigError(
                f"occlusion: window={window}, stride={stride}, batch_size={batch_size}; each must be 1 or more, and "
                "the stride at most the window, so that no pixel is left out."
            )
        self.classifier, self.window, self.stride = classifier, window, stride
        self.baseline, self.batch_size = baseline, batch_size

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        target = as_target(target)
        # windows along each axis, [w length], 1 = hidden; the window of the image is their outer product
        axes = [self._windows(length).to(image) for length in image.shape[2:]]
        passes = prod(map(len, axes)) * len(image)
        with fast_inference(self.classifier, image, passes) as network:
            score = target.score(network(image))
            drops = torch.stack([score[i] - self._scores(network, image, target, i, axes) for i in range(len(image))])
            saliency, coverage = drops.unflatten(1, [len(axis) for axis in axes]), torch.ones_like(image[0, 0])
            for dim, axis in enumerate(axes):
                saliency = torch.tensordot(saliency, axis, ([1], [0]))  # the axis moves to the end: in order at last
                coverage = coverage * axis.sum(0).view(-1, *[1] * (len(axes) - 1 - dim))
        return saliency / coverage

    def _scores(self, network: nn.Module, image: Image, target: Target, index: int, axes: list[Tensor]) -> Tensor:
        """[w]: of image `index` under each window."""
        places = torch.cartesian_prod(*[torch.arange(len(axis)) for axis in axes]).view(-1, len(axes))
        letters = ascii_lowercase[: len(axes)]
        product = ",".join(f"z{letter}" for letter in letters) + f"->z{letters}"
        scores = []
        for some in places.split(self.batch_size):
            hidden = torch.einsum(product, *[axis[chosen] for axis, chosen in zip(axes, some.T, strict=True)])
            output = network(seen_through(image[index], 1 - hidden, self.baseline))
            scores.append(repeated(target, index, len(some), image.device).score(output))
        return torch.cat(scores)

    def _windows(self, length: int) -> Tensor:
        """[w length]: 1 where each window along one axis is."""
        count = 1 + max(0, -(-(length - self.window) // self.stride))
        start = torch.arange(count)[:, None] * self.stride
        place = torch.arange(length)
        return ((place >= start) & (place < start + self.window)).float()
