"""Whether the classifier looks where a map says: its probability as pixels are removed in the map's order."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.metrics.imputation import BASELINES, noisy_linear
from cfxai.metrics.per_image import PerImage, Summary
from cfxai.nn.fold import fast_inference
from cfxai.protocols import Image, Result, Saliency


class DeletionInsertion:
    """Deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421), beside a random order on the same images.

    On abnormal images, from the map's highest pixel to its lowest: `deletion` is the area under the probability of
    the image's own label as pixels become the baseline (low: the map is faithful), `insertion` the same as they
    replace the baseline (high), both over the share of pixels in [0, 1]. `deletion_below_random` and
    `insertion_above_random` compare each image with itself under a random order, where positive is better than chance;
    without them neither area means anything. All with intervals over patients, as `deletion_ci`.

    Equal pixels are taken in that same random order: a constant map scores exactly as it does, and a map that is zero
    but for a few pixels gains nothing by where the rest happens to lie. The order depends on `seed` and the image size
    alone.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        steps: removals of equally many pixels; 4 (steps + 1) forward passes an image.
        baseline: `black`, or `blur`: the image under a Gaussian of a sixteenth of its shortest side.
        batch_size: images a forward pass, all of one image's versions together.
        resamples: bootstrap samples.
        seed: of the random order and of the bootstrap.

    Raises:
        ConfigError: an unknown baseline, or a number below 1.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        steps: int = 32,
        baseline: str = "black",
        batch_size: int = 256,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if baseline not in BASELINES:
            raise ConfigError(
                f"metrics.deletion_insertion.baseline: choose {' or '.join(BASELINES)}, not '{baseline}'."
            )
        if min(steps, batch_size) < 1:
            raise ConfigError(
                f"metrics.deletion_insertion: steps={steps}, batch_size={batch_size}; each must be 1 or more."
            )
        self.classifier, self.baseline = classifier, BASELINES[baseline]
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        names = ("deletion", "deletion_below_random", "insertion", "insertion_above_random")
        self.found = PerImage(names, resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        abnormal = (result.label > 0).nonzero()[:, 0].tolist()
        if not abnormal:
            return
        baseline, ranks = self.baseline(result.image), removal_ranks(result.saliency, self.seed)
        passes = 4 * (self.steps + 1) * len(abnormal)
        with fast_inference(self.classifier, result.image, passes) as network:
            for i in abnormal:
                label = int(result.label[i])
                deletion = self._areas(network, result.image[i], baseline[i], ranks[i], label)
                insertion = self._areas(network, baseline[i], result.image[i], ranks[i], label)
                self.found.add(
                    result.group[i],
                    {
                        "deletion": deletion[0],
                        "deletion_below_random": deletion[1] - deletion[0],
                        "insertion": insertion[0],
                        "insertion_above_random": insertion[0] - insertion[1],
                    },
                )

    def compute(self) -> Summary:
        return self.found.summary()

    def _areas(self, network: nn.Module, start: Tensor, end: Tensor, ranks: Tensor, label: int) -> list[float]:
        """Areas under the probability from image `start` to `end`, pixel by pixel in the order of each of `ranks`."""
        pixels = start[0].numel()
        counts = torch.linspace(0, pixels, self.steps + 1, device=start.device).round()
        replaced = torch.stack([rank < n for rank in ranks for n in counts])[:, None]
        batches = (torch.where(part, end, start) for part in replaced.split(self.batch_size))
        curves = torch.cat([probability(network, batch, label) for batch in batches]).view(len(ranks), -1)
        return torch.trapezoid(curves, counts / pixels).tolist()


class Road:
    """ROAD, remove and debias (Rong et al. 2022, arXiv:2202.00449): removed pixels are imputed from their neighbours.

    `road`: on abnormal images, how much lower the probability of the image's own label is without the map's most
    relevant pixels than without as many of its least relevant ones, averaged over `shares` of the image. In [-1, 1],
    where a random order has 0 in expectation, and more is more faithful. `road_ci` is its interval over patients. Equal
    pixels are taken in the same random order as by `DeletionInsertion`.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        shares: of the pixels that are removed, each in (0, 1); the defaults are the paper's.
        noise: added to imputed pixels, see `noisy_linear`.
        resamples: bootstrap samples.
        seed: of the random order, the noise and the bootstrap.

    Raises:
        ConfigError: a share outside its range, or none.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9),
        noise: float = 0.02,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if not shares or not all(0 < share < 1 for share in shares):
            raise ConfigError(f"metrics.road.shares: {list(shares)} must lie between 0 and 1, both excluded.")
        self.classifier, self.shares, self.noise, self.seed = classifier, shares, noise, seed
        self.found = PerImage(["road"], resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        abnormal = (result.label > 0).nonzero()[:, 0].tolist()
        if not abnormal:
            return
        ranks = removal_ranks(result.saliency, self.seed)[:, 0]
        pixels = ranks[0].numel()
        counts = [min(round(share * pixels), pixels - 1) for share in self.shares]
        with fast_inference(self.classifier, result.image, 2 * len(counts) * len(abnormal)) as network:
            for i in abnormal:
                gone = torch.stack([*(ranks[i] < n for n in counts), *(ranks[i] >= pixels - n for n in counts)])
                imputed = noisy_linear(result.image[i], gone, noise=self.noise, seed=self.seed)
                without_most, without_least = probability(network, imputed, int(result.label[i])).chunk(2)
                self.found.add(result.group[i], {"road": float((without_least - without_most).mean())})

    def compute(self) -> Summary:
        return self.found.summary()


def probability(network: nn.Module, image: Image, label: int) -> Float[Tensor, " b"]:
    """The softmax probability of one class."""
    return network(image).float().softmax(1)[:, label]


def removal_ranks(saliency: Saliency, seed: int) -> Int[Tensor, "b 2 *spatial"]:
    """At which place each pixel is removed: from high to low, and in the random order, which also breaks ties."""
    flat = saliency.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    orders = torch.stack([order, shuffle.expand_as(order)], 1)
    return orders.argsort(2).unflatten(2, saliency.shape[1:])
