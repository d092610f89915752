"""RISE, randomized input sampling for explanation (Petsiuk et al. 2018, BMVC, arXiv:1806.07421)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.freeze import frozen
from cfxai.nn.memory_format import channels_last
from cfxai.protocols import Image, Labels, Saliency


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
        baseline: float = -1.0,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if min(masks, cells, batch_size) < 1:
            raise ConfigError(f"rise: masks={masks}, cells={cells}, batch_size={batch_size}; each must be 1 or more.")
        if not 0 < keep < 1:
            raise ConfigError(f"rise: keep={keep} must lie between 0 and 1, both excluded.")
        self.classifier, self.masks, self.cells, self.keep = classifier, masks, cells, keep
        self.baseline, self.batch_size, self.seed = baseline, batch_size, seed

    @torch.no_grad()
    def attribute(self, image: Image, target: Labels) -> Saliency:
        saliency, coverage = torch.zeros_like(image[:, 0]), torch.zeros_like(image[0, 0])
        with frozen(self.classifier), channels_last(self.classifier):
            for visible in self.occlusions(image.shape[2:]):
                visible = visible.to(image)
                coverage += visible.sum(0)
                for i, x in enumerate(image):
                    logits = self.classifier(self.baseline + visible[:, None] * (x - self.baseline))
                    saliency[i] += torch.tensordot(logits.softmax(1)[:, target[i]], visible, 1)
        return saliency / coverage.clamp_min(torch.finfo(coverage.dtype).tiny)

    def occlusions(self, size: torch.Size) -> Iterator[Tensor]:
        """The masks [n *size] in [0, 1], `batch_size` at a time; made on each call, since that costs little.

        A coarse grid of visible and hidden cells is upsampled linearly to one cell more than the image and cropped at
        a random offset. Interpolation is separable: one small matrix product per axis instead of a resampled image.
        """
        random = torch.Generator().manual_seed(self.seed)
        grids = torch.rand((self.masks, *[self.cells] * len(size)), generator=random) < self.keep
        rows = [self._interpolation(length, random) for length in size]
        for start in range(0, self.masks, self.batch_size):
            chunk = slice(start, start + self.batch_size)
            masks = grids[chunk].float()
            for matrix in rows:  # replaces the first axis, coarse, by a fine last one; in the end all are in order
                masks = torch.einsum("nc...,nlc->n...l", masks, matrix[chunk])
            yield masks

    def _interpolation(self, length: int, random: torch.Generator) -> Tensor:
        """[masks length cells]: linear interpolation from the cells of one axis to its pixels, randomly shifted."""
        cell = -(-length // self.cells)
        whole = F.interpolate(torch.eye(self.cells)[None], size=cell * (self.cells + 1), mode="linear")[0].T
        shift = torch.randint(cell, (self.masks, 1), generator=random)
        return whole[shift + torch.arange(length)]
