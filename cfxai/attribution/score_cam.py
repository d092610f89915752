"""Score-CAM (Wang et al. 2020, CVPR workshops, arXiv:1910.01279)."""

import torch
from torch import Tensor, nn

from cfxai.attribution.occluded import repeated, seen_through
from cfxai.attribution.target_layer import TargetLayer, upsample
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.nn.fold import fast_inference
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Saliency, Target


class ScoreCAM:
    """sum_k a_k A_k, a = softmax over channels of the target's score on the image seen through map k.

    Algorithm 1 of the paper: the score is the logit, before the softmax over classes. The algorithm first subtracts
    the logit of a baseline image; that shifts all channels alike, which the softmax over channels cancels, so that pass
    is not made. A map seen through is upsampled and min-max normalised to [0, 1]; constant maps carry no position and
    are left out, and an image that has only such gets a map of zeros. The paper's ReLU at the end is for display; ours
    is signed.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        layer: name of a layer with spatial maps; None = the last one.
        channels: only that many maps, those of the largest standard deviation over positions; None = all. The maps
            that are left out would have weighed as much as any, and the time falls with their number.
        baseline: what a hidden pixel becomes, in [-1, 1]. COIN's comparison has mid-grey, 0; on CT that looks like a
            lesion itself, and the map points everywhere but at the lesion.
        batch_size: maps per forward pass.

    Raises:
        ConfigError: a number outside its range; (when asked) no such layer, or one without maps.
        UnsuitableError: (when asked) the network's layout of positions is not known.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        layer: str | None = None,
        channels: int | None = None,
        baseline: float = -1.0,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1 or (channels is not None and channels < 1):
            raise ConfigError(f"score_cam: batch_size={batch_size}, channels={channels}; each must be 1 or more.")
        self.classifier, self.layer, self.channels = classifier, TargetLayer(classifier, layer), channels
        self.baseline, self.batch_size = baseline, batch_size

    @torch.no_grad()
    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        target = as_target(target)
        with frozen(self.classifier):
            maps, _ = self.layer.read(image)
        passes = min(maps.shape[1], self.channels or maps.shape[1]) * len(image)
        with fast_inference(self.classifier, image, passes) as network:
            saliency = [self._weigh(network, image, maps[i], target, i) for i in range(len(image))]
        return upsample(torch.stack(saliency), image.shape[2:])

    def _weigh(self, network: nn.Module, image: Image, maps: Tensor, target: Target, index: int) -> Tensor:
        """The maps [k *small] of image `index` to its saliency [*small]."""
        low, high = maps.flatten(1).aminmax(dim=1)
        maps = maps[high > low]
        if not len(maps):
            return maps.new_zeros(maps.shape[1:])
        if self.channels is not None and self.channels < len(maps):
            maps = maps[maps.flatten(1).std(1).topk(self.channels).indices]
        scores = []
        for some in maps.split(self.batch_size):
            output = network(seen_through(image[index], _windows(some, image.shape[2:]), self.baseline))
            scores.append(repeated(target, index, len(some), image.device).score(output))
        return torch.tensordot(torch.cat(scores).softmax(0), maps, 1)


def _windows(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps [k *small] as large as the image, each scaled to [0, 1]."""
    large = upsample(maps, size)
    low, high = (bound.view(-1, *[1] * len(size)) for bound in large.flatten(1).aminmax(dim=1))
    return (large - low) / (high - low).clamp_min(torch.finfo(large.dtype).tiny)
