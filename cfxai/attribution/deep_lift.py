"""DeepLIFT: how each layer's difference from a baseline is made of its inputs' differences."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.gradients import input_gradient
from cfxai.attribution.targets import as_target
from cfxai.errors import UnsuitableError
from cfxai.nn.canonical import ALTERNATIVES, CanonicalCopy
from cfxai.nn.layer_kinds import MAXIMA, POINTWISE
from cfxai.protocols import Image, Labels, Target

SMALL = 1e-6
"""Differences below which a ratio of differences is only rounding."""


class DeepLIFT(Channelwise):
    """Differences from a baseline, propagated by the rescale rule (Shrikumar et al. 2017, arXiv:1704.02685, 3.5.1).

    The image and the baseline go through the network together, and each activation f is replaced by the line through
    both points, of slope (f(z) - f(z')) / (z - z'): the gradient of what results, times x - x', is DeepLIFT. Where both
    points agree, the slope is f'. A maximum's difference belongs to the inputs that attain it.

    The contributions must add up to s(x) - s(x'). Gates, attention and normalisation by the image's own statistics
    have no such rule, and networks in which they matter are refused by that sum.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        baseline: x', in [-1, 1]: black, since mid-grey looks like a lesion on CT.
        tolerance: by which share of s(x) - s(x') the sum may miss it.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; only of `sum` the sum holds.

    Raises:
        UnsuitableError: (when asked) the sum fails, or the network cannot be traced.
    """

    def __init__(
        self, classifier: nn.Module, *, baseline: float = -1.0, tolerance: float = 0.1, channels: str = "sum"
    ) -> None:
        super().__init__(channels)
        self.copy, self.baseline, self.tolerance = CanonicalCopy(classifier), baseline, tolerance

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        canonical = self.copy.of(image)
        if canonical.foreign:
            raise UnsuitableError(
                f"deep_lift: it has no rule for {', '.join(canonical.foreign)} in this network; {ALTERNATIVES}."
            )
        pair = _Beside(canonical.network, self.baseline)
        with ExitStack() as hooks:
            for module in canonical.network.modules():
                if isinstance(module, POINTWISE):
                    hooks.enter_context(module.register_forward_hook(_rescale))
                elif isinstance(module, MAXIMA):
                    hooks.enter_context(module.register_forward_hook(_share_maximum))
            slope = input_gradient(pair, image, target)
        parts = (image - self.baseline).float() * slope
        self._require_complete(parts, canonical.network, image, as_target(target))
        return parts

    def _require_complete(self, parts: Image, network: nn.Module, image: Image, target: Target) -> None:
        with torch.no_grad():
            there = target.score(network(torch.full_like(image, self.baseline))).float()
            here = target.score(network(image)).float()
        rise, found = here - there, parts.flatten(1).sum(1)
        rounding = 1e-5 * torch.maximum(here.abs(), there.abs())
        wrong = ~((found - rise).abs() <= self.tolerance * rise.abs() + rounding)  # also where it is not a number
        if wrong.any():
            worst = int(wrong.nonzero()[0])
            raise UnsuitableError(
                f"deep_lift: its contributions add up to {float(found[worst]):.3g} where the score changes by "
                f"{float(rise[worst]):.3g}, as with gates and layer normalisation; {ALTERNATIVES}."
            )


class _Beside(nn.Module):
    """The network on images, a baseline image passing beside each: [b c *spatial] -> the images' output."""

    def __init__(self, network: nn.Module, baseline: float) -> None:
        super().__init__()
        self.network, self.baseline = network, baseline

    def forward(self, image: Image) -> Tensor:
        return self.network(torch.cat([image, torch.full_like(image, self.baseline)]))[: len(image)]


def _rescale(activation: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The line through the activation's points at image and baseline in place of the activation."""
    (entered,) = args
    here, there = entered.detach().chunk(2)
    step, rise = here - there, torch.sub(*output.detach().chunk(2))
    leaf = here.clone().requires_grad_()
    (tangent,) = torch.autograd.grad(activation.forward(leaf).sum(), leaf)
    close = step.abs() < SMALL
    slope = torch.where(close, tangent, rise / torch.where(close, 1, step))
    return output.detach() + torch.cat([slope, slope]) * (entered - entered.detach())


def _share_maximum(pool: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """What rises above the baseline's maximum belongs to the image's largest input, what falls to the baseline's."""
    (entered,) = args
    finder: Any = copy.copy(pool)
    finder.return_indices = True
    _, places = finder.forward(entered.detach())
    image = entered.chunk(2)[0].flatten(2)
    step = torch.sub(*entered.detach().chunk(2)).flatten(2)
    rise = torch.sub(*output.detach().chunk(2)).flatten(2)
    line = torch.zeros_like(rise)
    for place, share in zip(places.chunk(2), (rise.clamp_min(0), rise.clamp_max(0)), strict=True):
        at = place.flatten(2)
        slope = torch.where(share.abs() < SMALL, 0, share / step.gather(2, at))
        line = line + slope * (image - image.detach()).gather(2, at)
    beside = torch.cat([line, torch.zeros_like(line)]).view_as(output)
    return output.detach() + beside
