"""Regions that the size of an image decides: the same for every image of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cfxai.protocols import RegionMaps


class Fixed(ABC):
    """What grids, rings and boxes share. A batch gets one set of maps, expanded without a copy."""

    names: Sequence[str]

    @abstractmethod
    def maps(self, shape: tuple[int, ...]) -> Float[np.ndarray, "r *spatial"]:
        """One map per name, in [0, 1], for images of that many rows, columns, … ."""

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        image = batch["image"]
        maps = torch.from_numpy(self.maps(tuple(image.shape[2:]))).to(image.device)
        return maps.expand(len(image), *maps.shape)
