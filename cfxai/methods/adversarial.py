"""An adversarial perturbation: what flips the classifier without showing why.

Projected gradient descent under a bound on every pixel (Madry et al. 2018, arXiv:1706.06083). A control for
counterfactuals: whatever measures explanation must tell them from this.
"""

import torch
from torch import nn

from cfxai import losses
from cfxai.errors import ConfigError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Counterfactual, Image, Labels


class Adversarial:
    """min over |x_cf - x| <= radius of the cross-entropy of f(x_cf) and the target, by steps along gradients' signs.

    Args:
        classifier: f, left untouched.
        radius: largest change of a pixel, share of the intensity range.
        steps: of the search, each of 2.5 radius / steps, so that it can reach and turn on the boundary.

    Raises:
        ConfigError: no steps, or a radius that is not in (0, 1].
    """

    name = "adversarial"
    both_ways = True

    def __init__(self, classifier: nn.Module, *, radius: float = 0.02, steps: int = 20) -> None:
        if not 0 < radius <= 1:
            raise ConfigError(f"control.radius: must be more than 0 and at most 1, got {radius}.")
        if steps < 1:
            raise ConfigError(f"control.steps: must be 1 or more, got {steps}.")
        self.classifier, self.radius, self.steps = classifier, radius, steps

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        """[b c *spatial] in [-1, 1] to the image that f calls `target`, if the radius allows it; not random."""
        reach = 2 * self.radius  # images span [-1, 1]
        low, high = (image - reach).clamp_min(-1), (image + reach).clamp_max(1)
        changed = image.detach().clone()
        with frozen(self.classifier), torch.enable_grad():
            for _ in range(self.steps):
                changed.requires_grad_()
                error = losses.cross_entropy(self.classifier(changed), target) * len(image)
                (slope,) = torch.autograd.grad(error, changed)
                step = changed.detach() - 2.5 * reach / self.steps * slope.sign()
                changed = torch.minimum(torch.maximum(step, low), high)
        return Counterfactual(image, changed.detach(), target)
