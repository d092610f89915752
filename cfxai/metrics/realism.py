"""Whether counterfactuals look like real images: distances between sets of features."""

from collections.abc import Callable

import torch
from torch import Tensor

from cfxai.protocols import Image, Result


class Realism:
    """FID and KID between real normal images and the counterfactuals of abnormal images.

    Counterfactuals of normal images are left out: an explainer that leaves normal images alone, as it should, would
    be compared with copies of the reference, and one that changes nothing at all would score best. The distances
    depend on the features, whose name is therefore part of the result: compare only values of one extractor and one
    data set.

    `fid` is None with fewer images on either side than feature dimensions, where the covariance has no full rank and
    the estimate is far too high (`fid_note` says so); `kid` is unbiased, and may be negative for equal distributions.

    Args:
        features: images in [-1, 1] to features [b d], e.g. `cfxai.nn.features.penultimate(classifier)`.
        name: of the features, in the result as `extractor`.
    """

    def __init__(self, features: Callable[[Image], Tensor], name: str) -> None:
        self.features, self.name = features, name
        self.real: list[Tensor] = []
        self.counterfactual: list[Tensor] = []

    def update(self, result: Result) -> None:
        if result.counterfactual is None:
            return
        self._keep(self.real, result.image[result.label == 0])
        self._keep(self.counterfactual, result.counterfactual.counterfactual[result.label > 0])

    def compute(self) -> dict[str, float | str | None]:
        values: dict[str, float | str | None] = {"fid": None, "kid": None, "fid_note": None, "extractor": self.name}
        if not self.real or not self.counterfactual:
            return values
        real, fake = torch.cat(self.real), torch.cat(self.counterfactual)
        images, dimensions = min(len(real), len(fake)), real.shape[1]
        if images < dimensions:
            values["fid_note"] = f"not computed: {images} images for {dimensions} feature dimensions"
        else:
            values["fid"] = frechet_distance(real, fake)
        if images >= 2:
            values["kid"] = kernel_distance(real, fake)
        return values

    def _keep(self, store: list[Tensor], image: Image) -> None:
        if len(image):
            store.append(self.features(image).detach().double().cpu())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of features [n d].

    The squared distance of two Gaussians (Heusel et al. 2017, arXiv:1706.08500). The trace of the root is the sum of
    the singular values of C_x^(1/2) C_y^(1/2).
    """
    shift = (x.mean(0) - y.mean(0)).square().sum()
    c_x, c_y = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(x.shape[1], -1)
    overlap = torch.linalg.svdvals(_root(c_x) @ _root(c_y)).sum()
    return max(0.0, float(shift + c_x.trace() + c_y.trace() - 2 * overlap))  # rounding may go below zero


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of features [n d] under the kernel (x.y / d + 1)^3.

    Binkowski et al. 2018, arXiv:1801.01401. Over all pairs rather than the usual random subsets, hence deterministic.
    """
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _kernel(x, x).sum()) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _kernel(y, y).sum()) / (m * (m - 1))
    return float(within_x + within_y - 2 * _kernel_sum(x, y) / (n * m))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Kernel of each pair of rows [n]."""
    return ((x * y).mean(1) + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum over all n m pairs, a block at a time."""
    return torch.stack([((block @ y.T / x.shape[1] + 1) ** 3).sum() for block in x.split(1024)]).sum()


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
