"""The game that an image's regions play: the target's score while some are shown and the others hidden."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cfxai.attribution.occluded import repeated, seen_through
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.nn.autocast import in_full
from cfxai.nn.fold import fast_inference
from cfxai.protocols import Image, Labels, Regions, Saliency, Target

REST = "rest"
"""The name of what is in no region."""


class RegionAttributor(ABC):
    """Gives each region a value, from scores of coalitions: images of which only some regions are shown.

    Where regions overlap, or are soft, a pixel belongs to each by its share; what is missing to 1 belongs to the rest,
    the last region. So all regions together are the image and none is the baseline.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        regions: where the parts of an image are, known from the image alone.
        baseline: what a hidden pixel becomes, in [-1, 1].
        batch_size: coalitions per forward pass.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self, classifier: nn.Module, *, regions: Regions, baseline: float = -1.0, batch_size: int = 256
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}; it must be 1 or more.")
        self.classifier, self.regions = classifier, regions
        self.baseline, self.batch_size = baseline, batch_size

    @property
    def names(self) -> Sequence[str]:
        """Of the columns of `region_values`."""
        return [*self.regions.names, REST]

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        """Each region's value, spread evenly over its area: a map's sum is that of its regions' values."""
        values, shares = self.region_values(image, target), self._shares(image)
        area = shares.flatten(2).sum(2)
        density = values / area.where(area > 0, torch.ones_like(area))
        with in_full(image.device):
            return torch.einsum("br,br...->b...", density, shares)

    @torch.no_grad()
    def region_values(self, image: Image, target: Labels | Target) -> Float[Tensor, "b players"]:
        """What each region contributes to the target, in units of its score; the last column is the rest.

        A region that is nowhere in an image does not play, and has 0.
        """
        shares, target = self._shares(image), as_target(target)
        present = shares.flatten(2).amax(2) > 0
        values = torch.zeros(present.shape, device=image.device)
        games = [self.coalitions(int(playing.sum())) for playing in present]
        with fast_inference(self.classifier, image, sum(map(len, games))) as network:
            for i, (playing, coalitions) in enumerate(zip(present, games, strict=True)):
                scores = self._scores(network, image, target, i, shares[i, playing], coalitions)
                values[i, playing] = self.values(coalitions, scores).to(values)
        return values

    @abstractmethod
    def coalitions(self, players: int) -> Bool[Tensor, "n p"]:
        """Which to ask about, True = shown: the same for all images with so many regions."""

    @abstractmethod
    def values(self, coalitions: Bool[Tensor, "n p"], scores: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        """From the coalitions' scores, in float64, to the regions' values."""

    def _scores(
        self, network: nn.Module, image: Image, target: Target, index: int, shares: Tensor, coalitions: Tensor
    ) -> Tensor:
        """[n], of image `index`, on the CPU; a coalition that occurs several times is looked at once."""
        distinct, inverse = coalitions.unique(dim=0, return_inverse=True)
        scores = []
        for some in distinct.to(shares).split(self.batch_size):
            output = network(seen_through(image[index], torch.tensordot(some, shares, 1), self.baseline))
            scores.append(repeated(target, index, len(some), image.device).score(output))
        return torch.cat(scores).double().cpu()[inverse]

    def _shares(self, image: Image) -> Float[Tensor, "b players *spatial"]:
        maps = self.regions({"image": image}).to(image).clamp(0, 1)
        total = maps.sum(1, keepdim=True)
        return torch.cat([maps / total.clamp_min(1), (1 - total).clamp_min(0)], 1)
