"""Regions that come with the data: a label map per image, which went through the same transforms as its image."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from cfxai.errors import ConfigError, DataError
from cfxai.protocols import RegionMaps

MEND = {
    "region": "add a column region with label maps to the manifest",
    "organ": "set data.organ_masks=true, data.organ_labels and masks that show the organ",
    "mask": "add a column mask to the manifest",
}


class LabelMap:
    """The named labels of the batch's label map [b *spatial], where 0 is no region.

    Args:
        labels: name -> label, or labels that make it up together; labels without a name belong to no region.
        source: which map: `region`, or the binary `organ` or lesion `mask`, whose label is 1.

    Raises:
        ConfigError: no name, label 0, or an unknown source. DataError: (when called) data without such a map.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, int | Sequence[int]],
        source: Literal["region", "organ", "mask"] = "region",
    ) -> None:
        if source not in MEND:
            raise ConfigError(f"regions.source: choose {', '.join(MEND)}, not '{source}'.")
        self.labels = {name: [label] if isinstance(label, int) else list(label) for name, label in labels.items()}
        if not self.labels or not all(found and 0 not in found for found in self.labels.values()):
            raise ConfigError("regions.labels: each name needs one label or several, none of them 0: heart: [3, 4].")
        self.source = source
        self.names = list(self.labels)

    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        found = batch.get(self.source)
        if found is None:
            raise DataError(f"regions: the data have no {self.source} maps; {MEND[self.source]}.")
        found = found.long()
        return torch.stack([torch.isin(found, found.new_tensor(labels)) for labels in self.labels.values()], 1).float()
