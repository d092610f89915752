"""Ablation-CAM (Desai and Ramaswamy 2020, WACV)."""

import torch
from torch import Tensor, nn

from cfxai.attribution.cam import spatial_sum
from cfxai.attribution.linear_head import is_pooled_and_linear
from cfxai.attribution.occluded import repeated
from cfxai.attribution.target_layer import TargetLayer, upsample
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.nn.autocast import in_full
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Saliency, Target


class AblationCAM:
    """sum_k w_k A_k with w_k = y - y_k, the target's score less what it is with map k set to zero.

    The paper divides w by y and ends in a ReLU. Neither is done: dividing only rescales a map, and turns those of
    negative scores upside-down. Where global average pooling and one linear layer follow, w_k is that layer's weight
    times the mean of A_k, and no passes are needed; elsewhere, one for each map through what follows the layer.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: name of a layer with spatial maps; None = the last one.
        batch_size: ablated maps per forward pass.

    Raises:
        ConfigError: a number outside its range; (when asked) no such layer, or one without maps.
        UnsuitableError: (when asked) the network's layout of positions is not known, or the layer does not reach y.
    """

    def __init__(self, classifier: nn.Module, *, layer: str | None = None, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ConfigError(f"ablation_cam: batch_size={batch_size}; it must be 1 or more.")
        self.classifier, self.layer, self.batch_size = classifier, TargetLayer(classifier, layer), batch_size

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        with frozen(self.classifier), torch.inference_mode(False):
            image, target = image.clone(), as_target(target)[torch.arange(len(image), device=image.device)]
            maps, gradient, score = self.layer.differentiate(image, target)
            if is_pooled_and_linear(self.layer, image, target, maps, gradient, score):
                weights = (spatial_sum(gradient) * spatial_sum(maps) / maps[0, 0].numel()).flatten(1)
            else:
                weights = score[:, None] - self._ablated(image, maps, target)
        with in_full(image.device):
            saliency = torch.einsum("bk,bk...->b...", weights, maps)
        return upsample(saliency, image.shape[2:])

    @torch.no_grad()
    def _ablated(self, image: Image, maps: Tensor, target: Target) -> Tensor:
        """[b k]: the scores with each map set to zero."""
        scores = torch.empty(maps.shape[:2], device=maps.device)
        for index in range(len(image)):
            for some in torch.arange(maps.shape[1], device=maps.device).split(self.batch_size):
                ablated = maps[index].expand(len(some), *maps.shape[1:]).clone()
                ablated[torch.arange(len(some), device=maps.device), some] = 0
                output = self.layer.resume(image[index : index + 1], ablated)
                scores[index, some] = repeated(target, index, len(some), image.device).score(output)
        return scores
