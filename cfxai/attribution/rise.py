"""RISE, randomized input sampling for explanation (Petsiuk et al. 2018, BMVC, arXiv:1806.07421)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfxai.attribution.occluded import repeated, seen_through
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.nn.fold import fast_inference
from cfxai.protocols import Image, Labels, Saliency, Target


class RISE:
    """Mean target probability over random occlusions that leave a pixel visible.

    S(p) = sum_i f(x . M_i) M_i(p) / sum_i M_i(p), f the target's softmax probability: the paper's Monte Carlo
    estimate with the coverage that the masks really have at p in place of its expectation N * keep, so that no pixel
    is brighter for being shown more often; a classifier that ignores its input gets a constant map. One set of masks,
    from `seed` and the image size alone, serves all images and targets: an image has the same map alone and in a
    batch.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D.
        masks: number of occlusions, hence of forward passes per image.
        cells: the coarse grid's cells along each axis.
        keep: probability that a cell stays visible.
        antithetic: masks come in pairs m and 1 - m, whose errors partly cancel; every pixel is then covered equally.
        tolerance: stop an image's passes when the standard error of its map, root mean square over pixels, is below
            this share of the map's standard deviation over pixels; looked at after every `batch_size` masks. None =
            always use all masks.
        baseline: what a hidden pixel becomes, in [-1, 1]. COIN's comparison has mid-grey, 0; on CT that looks like a
            lesion itself, and the map points everywhere but at the lesion.
        batch_size: masks per forward pass.
        seed: of the masks.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        masks: int = 1000,
        cells: int = 8,
        keep: float = 0.5,
        antithetic: bool = False,
        tolerance: float | None = None,
        baseline: float = -1.0,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if min(masks, cells, batch_size) < 1:
            raise ConfigError(f"rise: masks={masks}, cells={cells}, batch_size={batch_size}; each must be 1 or more.")
        if not 0 < keep < 1:
            raise ConfigError(f"rise: keep={keep} must lie between 0 and 1, both excluded.")
        if antithetic and (keep != 0.5 or masks % 2 or batch_size % 2):
            raise ConfigError(
                f"rise: antithetic masks come in pairs that show and hide the same: keep={keep} must be 0.5, and "
                f"masks={masks} and batch_size={batch_size} even."
            )
        if tolerance is not None and tolerance <= 0:
            raise ConfigError(f"rise: tolerance={tolerance} must be above 0, or null.")
        self.classifier, self.masks, self.cells, self.keep = classifier, masks, cells, keep
        self.antithetic, self.tolerance = antithetic, tolerance
        self.baseline, self.batch_size, self.seed = baseline, batch_size, seed

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        target = as_target(target)
        means = [_VisibleMean(2 if self.antithetic else 1) for _ in image]
        with fast_inference(self.classifier, image, self.masks * len(image)) as network:
            for visible in self.occlusions(image.shape[2:], image.device):
                visible = visible.to(image)
                for i, mean in enumerate(means):
                    if self.tolerance is None or mean.error() > self.tolerance:
                        output = network(seen_through(image[i], visible, self.baseline))
                        question = repeated(target, i, len(visible), image.device)
                        mean.add(question.probability(output), visible, spread=self.tolerance is not None)
        return torch.stack([mean.value() for mean in means])

    def occlusions(self, size: torch.Size, device: torch.device | None = None) -> Iterator[Tensor]:
        """The masks [n *size] in [0, 1], `batch_size` at a time; made on each call, since that costs little.

        A coarse grid of visible and hidden cells is upsampled linearly to one cell more than the image and cropped at
        a random offset. Interpolation is separable: one small matrix product per axis instead of a resampled image.
        """
        random = torch.Generator().manual_seed(self.seed)
        pair = 2 if self.antithetic else 1
        count = self.masks // pair
        grids = torch.rand((count, *[self.cells] * len(size)), generator=random) < self.keep
        rows = [self._interpolation(length, count, random).to(device) for length in size]
        for start in range(0, count, self.batch_size // pair):
            chunk = slice(start, start + self.batch_size // pair)
            masks = grids[chunk].to(device, torch.float32)
            for matrix in rows:  # replaces the first axis, coarse, by a fine last one; in the end all are in order
                masks = torch.einsum("nc...,nlc->n...l", masks, matrix[chunk])
            yield torch.stack([masks, 1 - masks], 1).flatten(0, 1) if self.antithetic else masks

    def _interpolation(self, length: int, count: int, random: torch.Generator) -> Tensor:
        """[count length cells]: linear interpolation from the cells of one axis to its pixels, randomly shifted."""
        cell = -(-length // self.cells)
        whole = F.interpolate(torch.eye(self.cells)[None], size=cell * (self.cells + 1), mode="linear")[0].T
        shift = torch.randint(cell, (count, 1), generator=random)
        return whole[shift + torch.arange(length)]


class _VisibleMean:
    """sum f M / sum M as masks M [n *spatial] and probabilities f [n] come in, and the standard error of this ratio.

    With independent draws (masks, or pairs of them) of u = sum f M and v = sum M within the draw, its variance is
    sum (u - S v)^2 / (sum v)^2.
    """

    def __init__(self, group: int) -> None:
        self._group = group
        self._seen: Tensor | float = 0.0
        self._coverage: Tensor | float = 0.0
        self._squares: list[Tensor | float] = [0.0, 0.0, 0.0]

    def add(self, probability: Tensor, visible: Tensor, *, spread: bool) -> None:
        """`spread`: also what `error` needs."""
        self._seen = self._seen + torch.tensordot(probability, visible, 1)
        self._coverage = self._coverage + visible.sum(0)
        if spread:
            weighted = probability.view(-1, *[1] * (visible.ndim - 1)) * visible
            u, v = (one.double().unflatten(0, (-1, self._group)).sum(1) for one in (weighted, visible))
            terms = ((u * u).sum(0), (u * v).sum(0), (v * v).sum(0))
            self._squares = [old + new for old, new in zip(self._squares, terms, strict=True)]

    def value(self) -> Tensor:
        assert isinstance(self._seen, Tensor)
        assert isinstance(self._coverage, Tensor)
        return self._seen / self._coverage.clamp_min(torch.finfo(self._coverage.dtype).tiny)

    def error(self) -> float:
        """Root mean square standard error over the standard deviation of the map; infinite before the first mask."""
        if not isinstance(self._seen, Tensor) or not isinstance(self._coverage, Tensor):
            return float("inf")
        mean, (uu, uv, vv) = self.value().double(), self._squares
        variance = (uu - 2 * mean * uv + mean**2 * vv) / self._coverage.double().clamp_min(1e-9) ** 2
        return float(variance.mean().clamp_min(0).sqrt() / mean.std().clamp_min(1e-12))
