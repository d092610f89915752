"""Maps read from the gradient at the image."""

import torch
from torch import nn

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.targets import as_target
from cfxai.errors import UnsuitableError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Target


def input_gradient(network: nn.Module, image: Image, target: Labels | Target) -> Image:
    """ds/dx, s the target's score: one backward pass for the batch, no weight gradients, whatever the caller's mode.

    Raises:
        UnsuitableError: the score does not follow from the image by differentiable operations.
    """
    with frozen(network), torch.inference_mode(False), torch.enable_grad():
        # Tensors made under a caller's inference_mode cannot take part in a graph; copies made here can.
        leaf = image.clone().detach().requires_grad_()
        question = as_target(target)[torch.arange(len(image), device=image.device)]
        score = question.score(network(leaf)).sum()
        if not score.requires_grad:
            raise UnsuitableError(
                "The target's score has no gradient with respect to the image; use rise or occlusion, which need none."
            )
        (gradient,) = torch.autograd.grad(score, leaf, materialize_grads=True)
    return gradient.float()


class Gradient(Channelwise):
    """ds/dx, s the target's score: max_c |.| over channels (Simonyan et al. 2013, arXiv:1312.6034, section 3.1).

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; of these only `sum` keeps the sign.
    """

    def __init__(self, classifier: nn.Module, *, channels: str = "max") -> None:
        super().__init__(channels)
        self.classifier = classifier

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        return input_gradient(self.classifier, image, target)


class InputXGradient(Channelwise):
    """(x - x') ds/dx: the change of the score from x' to x, were the network linear.

    Shrikumar et al. 2016, arXiv:1605.01713, have x' = 0. There a dark pixel counts as far from nothing, and on CT the
    air around the patient lights up; we take black.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        baseline: x', in [-1, 1]; 0 is the published form.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; of these only `sum` keeps the sign.
    """

    def __init__(self, classifier: nn.Module, *, baseline: float = -1.0, channels: str = "sum") -> None:
        super().__init__(channels)
        self.classifier, self.baseline = classifier, baseline

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        return (image - self.baseline).float() * input_gradient(self.classifier, image, target)
