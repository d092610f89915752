"""Guided Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2)."""

from torch import nn

from cfxai.attribution.cam import GradCAM
from cfxai.attribution.guided import GuidedBackprop
from cfxai.protocols import Image, Labels, Saliency, Target


class GuidedGradCAM:
    """Guided backprop, summed over channels, times the positive part of the enlarged Grad-CAM.

    Grad-CAM's ReLU is part of this formula: without it, two negative factors would speak for the target.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: of Grad-CAM, see there.

    Raises:
        ConfigError: (when asked) no such layer, or one without maps.
        UnsuitableError: (when asked) a network that guided backprop or Grad-CAM would be wrong for.
    """

    def __init__(self, classifier: nn.Module, *, layer: str | None = None) -> None:
        self.guided, self.cam = GuidedBackprop(classifier), GradCAM(classifier, layer=layer)

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        return self.guided.contributions(image, target).sum(1) * self.cam.attribute(image, target).relu()
