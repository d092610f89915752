"""From a map to a mask: normalise, cut, post-process."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from cfxai.errors import ConfigError, NumericsError
from cfxai.masks.refine import Refine
from cfxai.protocols import Mask, Saliency


@dataclass(frozen=True, kw_only=True)
class Cut(ABC):
    """What all extractors share: a mask is where the normalised map is strictly above the image's cutoff.

    A constant saliency map gives an empty mask: it says nothing about where.

    Args:
        normalise: `minmax`, each map to [0, 1] by itself, for saliency, which has no units; `none` for differences
            |x - x_cf|, which are in [0, 1] of the intensity range already and mean less when stretched.
        refine: post-processing of the mask.
    """

    normalise: str = "minmax"
    refine: Refine | None = None

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "minmax"):
            raise ConfigError(f"masks.normalise: choose none or minmax, not '{self.normalise}'.")

    def __call__(self, saliency: Saliency) -> Mask:
        normalised = self.normalised(saliency)
        cutoff = self.cutoff(normalised.flatten(1)).view(-1, *[1] * (saliency.ndim - 1))
        mask = normalised > cutoff
        return self.refine(mask) if self.refine else mask

    def normalised(self, saliency: Saliency) -> Saliency:
        """The map that the cutoff applies to, in [0, 1]; a constant one becomes 0 under `minmax`.

        Raises:
            NumericsError: a value that is not finite.
        """
        if not saliency.isfinite().all():
            raise NumericsError("A saliency map holds NaN or infinity; check the explainer that made it.")
        if self.normalise == "none":
            return saliency
        low, high = (bound.view(-1, *[1] * (saliency.ndim - 1)) for bound in saliency.flatten(1).aminmax(dim=1))
        return (saliency - low) / torch.where(high > low, high - low, 1)

    @abstractmethod
    def cutoff(self, pixels: Tensor) -> Tensor:
        """One value per image [b] for normalised maps [b pixels]."""


@dataclass(frozen=True)
class Threshold(Cut):
    """One fixed cutoff for all images, in [0, 1]."""

    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"masks.threshold: {self.threshold} is not in [0, 1], the range of a normalised map.")

    def cutoff(self, pixels: Tensor) -> Tensor:
        return pixels.new_full((len(pixels),), self.threshold)


@dataclass(frozen=True)
class Quantile(Cut):
    """Keeps at most the share 1 - `quantile` of each image's pixels, the brightest; fewer where values tie."""

    quantile: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.quantile < 1:
            raise ConfigError(f"masks.quantile: {self.quantile} must lie between 0 and 1, both excluded.")

    def cutoff(self, pixels: Tensor) -> Tensor:
        rank = max(1, round(self.quantile * pixels.shape[1]))
        return pixels.kthvalue(rank, dim=1).values


@dataclass(frozen=True)
class Otsu(Cut):
    """Each image's own cutoff, which separates its values into two classes of least inner variance (Otsu 1979)."""

    def cutoff(self, pixels: Tensor) -> Tensor:
        return pixels.new_tensor([threshold_otsu(row) for row in pixels.cpu().numpy()])
