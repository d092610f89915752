"""The latents of a run's whole data set, in `<run>/latents`: for heads of one's own, and `tools/latent_heads.py`."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfxai.data.dataset import Data, Dataset
from cfxai.data.splits import SPLITS
from cfxai.latents.store import LatentStore
from cfxai.nn.weights import digest
from cfxai.protocols import Encodes
from cfxai.run.directory import shown

log = logging.getLogger("cfxai")


def write_latents(method: Encodes, data: Data, folder: Path, device: torch.device, batch_size: int) -> LatentStore:
    """Encodes every image of every split as it is, unaugmented; the judged split is called test.

    Writes `latents.safetensors` and `latents.csv`, see `LatentStore`, and `latents.npz` for `tools/latent_heads.py`.

    Raises:
        DataError: a split cannot be read, or there is no room on the disk.
    """
    splits = {name: data.split(name) for name in SPLITS}
    graded = all(dataset.grades is not None for dataset in splits.values())
    store = LatentStore(
        z=torch.cat([_encoded(method, dataset, device, batch_size) for dataset in splits.values()]),
        ids=tuple(item for dataset in splits.values() for item in dataset.ids),
        labels=torch.from_numpy(np.concatenate([dataset.labels for dataset in splits.values()])),
        split=tuple(name for name, dataset in splits.items() for _ in range(len(dataset))),
        digest=digest(method.network),
        groups=tuple(group for dataset in splits.values() for group in dataset.groups),
        grades=torch.from_numpy(np.concatenate([dataset.grades for dataset in splits.values()])) if graded else None,
    )
    store.save(folder)
    store.to_npz(folder / "latents.npz")
    log.info("latents  %s; python tools/latent_heads.py %s", shown(folder), shown(folder / "latents.npz"))
    return store


def _encoded(method: Encodes, dataset: Dataset, device: torch.device, batch_size: int) -> Tensor:
    starts = range(0, len(dataset), batch_size)
    parts = [dataset.batch(range(start, min(start + batch_size, len(dataset))))["image"] for start in starts]
    return torch.cat([method.encode(part.to(device)).cpu() for part in parts])
