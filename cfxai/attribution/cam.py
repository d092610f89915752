"""Class activation maps by gradients: a layer's maps, weighted by what they mean for the target.

With A_k the layer's maps, y the target's score and g = dy / dA, every method is a sum over k of weights times A_k.
One pass forward and one back, from the score to the layer, serve a whole batch; no weight gradients are computed.
Papers end in a ReLU, for display; ours are signed. All are enlarged linearly to the image's size.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cfxai.attribution.linear_head import is_pooled_and_linear
from cfxai.attribution.target_layer import TargetLayer, upsample
from cfxai.attribution.targets import as_target
from cfxai.errors import UnsuitableError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Saliency, Target


class GradientCAM(ABC):
    """What all have in common.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: name of a layer with spatial maps; None = the last one.

    Raises:
        ConfigError: (when asked) no such layer, or one without maps.
        UnsuitableError: (when asked) the network's layout of positions is not known, or the layer does not reach y.
    """

    def __init__(self, classifier: nn.Module, *, layer: str | None = None) -> None:
        self.classifier, self.layer = classifier, TargetLayer(classifier, layer)

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        with frozen(self.classifier), torch.inference_mode(False):
            # Tensors made under a caller's inference_mode cannot take part in a graph; copies made here can.
            image, target = image.clone(), as_target(target)[torch.arange(len(image), device=image.device)]
            maps, gradient, score = self.layer.differentiate(image, target)
            self.verify(image, target, maps, gradient, score)
        return upsample(self.combine(maps, gradient), image.shape[2:])

    @abstractmethod
    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Maps and their gradient [b c *small] to the weighted sum [b *small]."""

    def verify(self, image: Image, target: Target, maps: Tensor, gradient: Tensor, score: Tensor) -> None:
        """Raise UnsuitableError if the formula does not hold for this network."""
        return  # most hold for all


class GradCAM(GradientCAM):
    """sum_k mean(g_k) A_k (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2)."""

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return (spatial_sum(gradient) / maps[0, 0].numel() * maps).sum(1)


class HiResCAM(GradientCAM):
    """sum_k g_k A_k, position by position: what each contributes if y is linear in the maps.

    Draelos et al. 2020, arXiv:2011.08891.
    """

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return (gradient * maps).sum(1)


class LayerCAM(GradientCAM):
    """sum_k relu(g_k) A_k, position by position (Jiang et al. 2021, IEEE TIP 30)."""

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.relu() * maps).sum(1)


class XGradCAM(GradientCAM):
    """sum_k w_k A_k with w_k = sum(g_k A_k) / sum(A_k), so that the map's sum is that of g A.

    Fu et al. 2020, arXiv:2008.02312. A map of sum zero weighs nothing.
    """

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        total = spatial_sum(maps)
        weights = spatial_sum(gradient * maps) / total.where(total != 0, torch.ones_like(total))
        return (weights.where(total != 0, torch.zeros_like(total)) * maps).sum(1)


class GradCAMPlusPlus(GradientCAM):
    """sum_k w_k A_k with w_k = sum(relu(g_k) g_k^2 / (2 g_k^2 + sum(A_k) g_k^3)).

    Chattopadhay et al. 2018, arXiv:1710.11063, equations 5 and 19, for exp(y) whose own factor, the same for all k, is
    left out. g_k^2 cancels. The denominator is positive where activations are, as after a ReLU.

    Raises:
        UnsuitableError: (when asked) activations so negative that a denominator is not positive.
    """

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        positive = gradient.relu()
        below = 2 + positive * spatial_sum(maps)
        if below.min() <= 0:
            raise UnsuitableError(
                f"grad_cam_plus_plus: the maps of layer '{self.layer.name}' are negative where its weights take them "
                "to be positive, as after a ReLU; use grad_cam, hires_cam or layer_cam, or name another layer."
            )
        return (spatial_sum(positive / below) * maps).sum(1)


class CAM(GradientCAM):
    """sum_k w_k A_k, w the weights of the linear layer that follows global average pooling (Zhou et al. 2016,
    arXiv:1512.04150, equation 2). The map's mean is y without its bias.

    Raises:
        UnsuitableError: (when asked) something else follows the layer.
    """

    def combine(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return (spatial_sum(gradient) * maps).sum(1)

    def verify(self, image: Image, target: Target, maps: Tensor, gradient: Tensor, score: Tensor) -> None:
        if not is_pooled_and_linear(self.layer, image, target, maps, gradient, score):
            raise UnsuitableError(
                f"cam: layer '{self.layer.name}' is not followed by global average pooling and one linear layer, "
                "whose weights it needs; use grad_cam, hires_cam or layer_cam, which suit any head."
            )


def spatial_sum(maps: Tensor) -> Tensor:
    """[b c *small] to [b c 1 …]."""
    return maps.sum(tuple(range(2, maps.ndim)), keepdim=True)
