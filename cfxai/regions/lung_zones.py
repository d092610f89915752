"""The zones in which radiologists report chest X-rays, from any regions that know where the lungs are."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cfxai.errors import ConfigError, DataError
from cfxai.protocols import RegionMaps, Regions
from cfxai.regions.body import find_body

LUNGS = ("right lung", "left lung")
ZONES = ("upper", "middle", "lower")


class LungZones:
    """Nine regions that partition a frontal X-ray, left and right the patient's: the right lung is at the image's left.

    - "right upper zone" … "left lower zone": the thirds of each lung's height;
    - "between the lungs": heart, great vessels and spine, as far up and down as both lungs are;
    - "rest of body";
    - "outside body": air, markers and cables beside the patient. Relevance here means that the classifier has learnt
      something else than anatomy.

    Where one of the lungs was not found, only "outside body" is told; the others are empty, and their scores NaN.

    Args:
        lungs: regions that have "right lung" and "left lung", such as `Lungs`, or a `Segmentation` with a trained
            network.

    Raises:
        ConfigError: `lungs` names them otherwise. DataError: (when called) images that are not pictures.
    """

    def __init__(self, lungs: Regions) -> None:
        missing = [name for name in LUNGS if name not in lungs.names]
        if missing:
            raise ConfigError(f"regions.lungs: has no region named {missing[0]}; it has {', '.join(lungs.names)}.")
        self.lungs = lungs
        zones = [f"{side} {zone} zone" for side in ("right", "left") for zone in ZONES]
        self.names = [*zones, "between the lungs", "rest of body", "outside body"]

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        image = batch["image"]
        if image.ndim != 4:
            raise DataError("regions: lung zones are those of X-rays, which are pictures; name other regions.")
        chosen = [list(self.lungs.names).index(name) for name in LUNGS]
        right, left = (self.lungs(batch)[:, chosen] > 0.5).float().unbind(1)
        left = left * (1 - right)
        found = (right.amax((1, 2)) * left.amax((1, 2)))[:, None, None]
        right, left = right * found, left * found
        body = torch.maximum(find_body(image).float(), right + left)
        between = _between(right, left) * body
        rest = (body - right - left - between) * found
        return torch.cat([_thirds(right), _thirds(left), torch.stack([between, rest, 1 - body], 1)], 1)


def _thirds(lung: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    """The lung cut by height; each row goes to the third that its centre is in."""
    rows = lung.amax(2)
    height, total = rows.shape[1], rows.sum(1, keepdim=True)
    number = torch.arange(height, device=lung.device)
    first = torch.where(rows > 0, number, height).amin(1, keepdim=True)
    last = torch.where(rows > 0, number, -1).amax(1, keepdim=True)
    third = ((number + 0.5 - first) / (last - first + 1).clamp_min(1) * len(ZONES)).long()
    which = torch.arange(len(ZONES), device=lung.device)[None, :, None]
    inside = (third[:, None] == which) & (total > 0)[:, None]
    return inside[..., None] * lung[:, None]


def _between(right: Float[Tensor, "b h w"], left: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Pixels with the right lung somewhere to their left in the image, and the left lung to their right."""
    after = right.cummax(2).values
    before = left.flip(2).cummax(2).values.flip(2)
    return after * before * (1 - right - left)
