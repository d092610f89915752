"""Class activation maps: a layer's activation maps, weighted by what they mean for the target class."""

import torch
from torch import Tensor, nn

from cfxai.attribution.target_layer import TargetLayer, upsample
from cfxai.nn.freeze import frozen
from cfxai.nn.memory_format import channels_last
from cfxai.protocols import Image, Labels, Saliency


class LayerCAM:
    """relu(sum_k relu(dy / dA_k) * A_k), y the target's logit (Jiang et al. 2021, IEEE TIP 30).

    Each position of each map has its own weight, its positive gradient. One backward pass, from the logits to the
    layer, serves the whole batch.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: name of a layer with spatial maps; None = the last one.
    """

    def __init__(self, classifier: nn.Module, *, layer: str | None = None) -> None:
        self.classifier, self.layer = classifier, TargetLayer(classifier, layer)

    def attribute(self, image: Image, target: Labels) -> Saliency:
        # Tensors made under a caller's inference_mode cannot take part in a graph; their clones can.
        with frozen(self.classifier), torch.inference_mode(False), torch.enable_grad():
            maps, logits = self.layer.read(image.clone())
            (gradient,) = torch.autograd.grad(logits.gather(1, target.clone()[:, None]).sum(), maps)
        saliency = (gradient.relu() * maps.detach()).sum(1).relu()
        return upsample(saliency, image.shape[2:])


class ScoreCAM:
    """relu(sum_k a_k A_k), a = softmax over channels of the target's logit on the image seen through map k.

    Wang et al. 2020, CVPR workshops, arXiv:1910.01279, algorithm 1: f is the logit, before the softmax over classes.
    The algorithm first subtracts the logit of a baseline image; that shifts all channels alike, which the softmax
    over channels cancels, so that pass is not made. A map seen through is upsampled and min-max normalised to [0, 1];
    constant maps carry no position and are left out, and an image that has only such gets a map of zeros.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: name of a layer with spatial maps; None = the last one.
        baseline: what a hidden pixel becomes, in [-1, 1]. COIN's comparison has mid-grey, 0; on CT that looks like a
            lesion itself, and the map points everywhere but at the lesion.
        batch_size: maps per forward pass.
    """

    def __init__(
        self, classifier: nn.Module, *, layer: str | None = None, baseline: float = -1.0, batch_size: int = 256
    ) -> None:
        self.classifier, self.layer = classifier, TargetLayer(classifier, layer)
        self.baseline, self.batch_size = baseline, batch_size

    @torch.no_grad()
    def attribute(self, image: Image, target: Labels) -> Saliency:
        with frozen(self.classifier), channels_last(self.classifier):
            maps, _ = self.layer.read(image)
            saliency = [self._weigh(x, a, y) for x, a, y in zip(image, maps, target, strict=True)]
        return upsample(torch.stack(saliency), image.shape[2:])

    def _weigh(self, image: Tensor, maps: Tensor, target: Tensor) -> Tensor:
        """One image [c *spatial] and its maps [k *small] to its saliency [*small]."""
        low, high = maps.flatten(1).aminmax(dim=1)
        maps = maps[high > low]
        if not len(maps):
            return maps.new_zeros(maps.shape[1:])
        chunks = maps.split(self.batch_size)
        logits = torch.cat([self.classifier(self._seen_through(image, chunk))[:, target] for chunk in chunks])
        return torch.tensordot(logits.softmax(0), maps, 1).relu()

    def _seen_through(self, image: Tensor, maps: Tensor) -> Image:
        large = upsample(maps, image.shape[1:])[:, None]  # [k 1 *spatial]
        low, high = (bound.view(-1, *[1] * image.ndim) for bound in large.flatten(1).aminmax(dim=1))
        window = (large - low) / (high - low).clamp_min(torch.finfo(large.dtype).tiny)
        return self.baseline + window * (image - self.baseline)
