"""One split as memory-mapped arrays, and batches of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cfxai.data.export import Origin
from cfxai.data.prepare import RegionLabels
from cfxai.data.scan import Images, Masks


@dataclass(frozen=True)
class Dataset:
    """One split; its arrays are memory-mapped and read-only.

    Attributes:
        images: [n c *spatial] float32 in [-1, 1].
        labels: [n], 0 = normal.
        masks: [n *spatial], where the lesion is; None when the set has none.
        healthy: [n c *spatial], the same image without its lesion; None when the set has none.
        ids: one unique name per item, such as "case_003-axial-012".
        groups: the patient of each item.
        origin: the file and slice of each item.
        organs: [n *spatial], where the organ is; None unless asked for by `organ_masks`.
        regions: [n *spatial] int16, the region that each pixel belongs to, 0 = none; None when the set has none.
        channel: the channel that masks belong to, where others are neighbouring slices; None = all alike.
        grades: [n] int64, the severity, 0 = normal; None when the set has none.
        columns: what else the manifest says of each item, such as its patient's age, as text.
    """

    images: Images
    labels: Int[np.ndarray, " n"]
    masks: Masks | None
    healthy: Images | None
    ids: list[str]
    groups: list[str]
    origin: Origin
    organs: Masks | None = None
    regions: RegionLabels | None = None
    channel: int | None = None
    grades: Int[np.ndarray, " n"] | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int] | Int[np.ndarray, " b"] | Int[Tensor, " b"]) -> dict[str, Any]:
        """Copies of the items at `indices`: image and what is `known`; whatever else the set has (mask, organ, …)."""
        chosen = np.asarray(indices, dtype=np.int64)
        arrays = {
            "image": self.images,
            "mask": self.masks,
            "healthy": self.healthy,
            "organ": self.organs,
            "region": self.regions,
        }
        pixels = {name: torch.from_numpy(array[chosen]) for name, array in arrays.items() if array is not None}
        return {**self.known(chosen), **pixels}

    def known(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> dict[str, Any]:
        """All but the pixels of the items at `indices`: label, id and group; grade and columns if the set has them."""
        chosen = np.asarray(indices, dtype=np.int64)
        found: dict[str, Any] = {
            "label": torch.from_numpy(self.labels[chosen]),
            "id": [self.ids[i] for i in chosen],
            "group": [self.groups[i] for i in chosen],
        }
        if self.grades is not None:
            found["grade"] = torch.from_numpy(self.grades[chosen])
        if self.columns:
            found["columns"] = {name: [values[i] for i in chosen] for name, values in self.columns.items()}
        return found
