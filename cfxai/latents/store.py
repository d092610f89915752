"""The latents of a data set on disk: `latents.safetensors` and `latents.csv`, a row for each image."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from cfxai.errors import ConfigError, DataError
from cfxai.latents.statistics import LatentStatistics, statistics
from cfxai.latents.table import LatentTable, write_table
from cfxai.run.checkpoint import write_atomically

TENSORS, TABLE = "latents.safetensors", "latents.csv"


@dataclass(frozen=True)
class LatentStore:
    """Latents of images, and what is known of each.

    Attributes:
        z: [n d].
        ids: of the images.
        labels: [n], 0 = normal.
        split: "train", "val" or "test" of each.
        digest: sha256 of the model that made z, in hexadecimal.
        groups: patients; None where unknown.
        grades: [n], 0 = normal; None where there are none.
    """

    z: Float[Tensor, "n d"]
    ids: tuple[str, ...]
    labels: Int[Tensor, " n"]
    split: tuple[str, ...]
    digest: str
    groups: tuple[str, ...] | None = None
    grades: Int[Tensor, " n"] | None = None

    @cached_property
    def statistics(self) -> LatentStatistics:
        """Of the training latents.

        Raises:
            DataError: there are none.
        """
        training = torch.tensor([name == "train" for name in self.split])
        if not training.any():
            raise DataError("No latent is of the split train, which mean and covariance are taken from.")
        return statistics(self.z[training].double().cpu().numpy())

    def table(self) -> LatentTable:
        """For fitting heads: the label is the grade where there are grades."""
        labels = self.labels if self.grades is None else self.grades
        groups = None if self.groups is None else np.array(self.groups)
        return LatentTable(self.z.double().cpu().numpy(), labels.cpu().numpy(), np.array(self.split), groups)

    def to_npz(self, path: Path) -> None:
        """`table` as the file that `tools/latent_heads.py` reads."""
        write_table(path, self.table())

    def save(self, folder: Path) -> None:
        """Writes both files, each whole or not at all; of an old one beside a new one `load_store` knows.

        Raises:
            DataError: no training latents, or no room on the disk.
        """
        rows = pd.DataFrame({"id": self.ids, "label": self.labels.tolist(), "split": self.split})
        if self.groups is not None:
            rows["group"] = self.groups
        if self.grades is not None:
            rows["grade"] = self.grades.tolist()
        text = rows.to_csv(index=False).encode()
        found = self.statistics
        tensors = {name: torch.from_numpy(getattr(found, name)).float() for name in ("mean", "sd", "covariance")}
        tensors["z"] = self.z.detach().cpu().contiguous()
        write_atomically(folder / TABLE, text)
        write_atomically(
            folder / TENSORS, to_bytes(tensors, {"model": self.digest, "table": hashlib.sha256(text).hexdigest()})
        )


def load_store(folder: str | Path, digest: str | None = None) -> LatentStore:
    """The latents of a folder; with `digest`, only if that model made them.

    Raises:
        DataError: a file that is missing or damaged, or two that do not belong together.
        ConfigError: latents of another model.
    """
    folder = Path(folder)
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            header, z = file.metadata() or {}, file.get_tensor("z")
        text = (folder / TABLE).read_bytes()
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}: has no whole {TENSORS} and {TABLE} ({error}); write them again.") from error
    if header.get("table") != hashlib.sha256(text).hexdigest():
        raise DataError(f"{folder}: {TABLE} is not the one that {TENSORS} was written with; write both again.")
    if digest is not None and header["model"] != digest:
        raise ConfigError(
            f"{folder / TENSORS}: its latents are of another model ({header['model'][:8]}…, not {digest[:8]}…); "
            "encode the images again."
        )
    rows = pd.read_csv(StringIO(text.decode()), dtype={"id": str, "group": str, "split": str}, keep_default_na=False)
    return LatentStore(
        z=z,
        ids=tuple(rows["id"]),
        labels=torch.from_numpy(rows["label"].to_numpy(np.int64, copy=True)),
        split=tuple(rows["split"]),
        digest=header["model"],
        groups=tuple(rows["group"]) if "group" in rows else None,
        grades=torch.from_numpy(rows["grade"].to_numpy(np.int64, copy=True)) if "grade" in rows else None,
    )
