"""Whether the classifier looks at the regions that a map ranks first."""

import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.metrics.faithfulness import probability
from cfxai.metrics.imputation import BASELINES
from cfxai.metrics.per_image import PerImage, Summary
from cfxai.nn.fold import fast_inference
from cfxai.protocols import Image, Regions, Result


class RegionFlipping:
    """Deletion by whole regions instead of pixels: what follows depends on anatomy, not on how fine a map is.

    On abnormal images, from the region with the highest mean of the map to the lowest: `region_deletion` is the area
    under the probability of the image's own label as regions become the baseline, over the share of regions in
    [0, 1] (low: faithful); of superpixels that is IROF (Rieger and Hansen 2020, arXiv:2003.08747).
    `region_deletion_below_random` compares each image with itself under a random order of the regions. Regions that an
    image lacks are left out; images with fewer than two regions count nowhere. Regions of equal means are taken in the
    random order. With intervals over patients.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        regions: made from `image` and, where the data have one, the lesion's `mask`. What is partly in a region is
            removed in part.
        baseline: `black`, or `blur`: the image under a Gaussian of a sixteenth of its shortest side.
        resamples: bootstrap samples.
        seed: of the random order and of the bootstrap.

    Raises:
        ConfigError: an unknown baseline. DataError: (when called) of the regions.
    """

    def __init__(
        self,
        classifier: nn.Module,
        regions: Regions,
        *,
        baseline: str = "black",
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if baseline not in BASELINES:
            raise ConfigError(f"metrics.region_flipping.baseline: choose {' or '.join(BASELINES)}, not '{baseline}'.")
        self.classifier, self.regions, self.baseline, self.seed = classifier, regions, BASELINES[baseline], seed
        self.found = PerImage(["region_deletion", "region_deletion_below_random"], resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        abnormal = (result.label > 0).nonzero()[:, 0].tolist()
        if not abnormal:
            return
        batch = {"image": result.image} | ({} if result.truth is None else {"mask": result.truth})
        maps = self.regions(batch).to(result.image)
        baseline = self.baseline(result.image)
        passes = 2 * (maps.shape[1] + 1) * len(abnormal)
        with fast_inference(self.classifier, result.image, passes) as network:
            for i in abnormal:
                there = maps[i][maps[i].flatten(1).any(1)]
                if len(there) < 2:
                    continue
                density = (there * result.saliency[i]).flatten(1).sum(1) / there.flatten(1).sum(1)
                shuffle = torch.randperm(len(there), generator=torch.Generator().manual_seed(self.seed)).to(
                    there.device
                )
                order = shuffle[density[shuffle].argsort(dim=0, descending=True, stable=True)]
                flipped = [_cumulated(result.image[i], baseline[i], there[way]) for way in (order, shuffle)]
                curves = probability(network, torch.cat(flipped), int(result.label[i])).view(2, -1)
                found, control = (torch.trapezoid(curves) / len(there)).tolist()
                self.found.add(
                    result.group[i], {"region_deletion": found, "region_deletion_below_random": control - found}
                )

    def compute(self) -> Summary:
        return self.found.summary()


def _cumulated(image: Tensor, baseline: Tensor, regions: Tensor) -> Image:
    """The image [c *spatial] without the first 0, 1 … r of the regions [r *spatial]: [r + 1 c *spatial]."""
    kept = torch.cat([torch.ones_like(regions[:1]), (1 - regions).cumprod(0)])[:, None]
    return baseline + kept * (image - baseline)
