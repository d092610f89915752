"""Latents of a whole data set on the disk, and whose they are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_latent_space import latents

from cfxai.errors import ConfigError, DataError
from cfxai.latents.store import LatentStore, load_store
from cfxai.latents.table import read_table

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def store() -> LatentStore:
    z, y, _ = latents(30)
    return LatentStore(
        z=z.float(), ids=tuple(f"case {i}" for i in range(30)), labels=(y > 0).long(), grades=y,
        split=("train",) * 20 + ("val",) * 10, groups=tuple(f"00{i // 2}" for i in range(30)), digest=DIGEST,
    )  # fmt: skip


def test_a_store_comes_back_as_it_was_saved(store: LatentStore, tmp_path: Path) -> None:
    store.save(tmp_path / "run")
    again = load_store(tmp_path / "run", DIGEST)
    assert torch.equal(again.z, store.z)
    assert (again.ids, again.groups, again.split, again.digest) == (store.ids, store.groups, store.split, DIGEST)
    assert (again.labels.tolist(), again.grades.tolist()) == (store.labels.tolist(), store.grades.tolist())  # type: ignore[union-attr]
    on_disk = load_file(tmp_path / "run" / "latents.safetensors")
    assert on_disk["mean"].numpy() == pytest.approx(store.z[:20].numpy().mean(0), abs=1e-6)
    assert on_disk["covariance"].numpy() == pytest.approx(store.statistics.covariance, abs=1e-6)
    store.to_npz(tmp_path / "latents.npz")
    table = read_table(tmp_path / "latents.npz")
    assert table.labels.tolist() == store.grades.tolist()  # type: ignore[union-attr]
    assert table.features == pytest.approx(store.z.double().numpy())
    assert table.groups is not None
    assert table.groups.tolist() == list(store.groups or ())


def test_a_store_that_is_not_whole_or_of_another_model(store: LatentStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"latents\.safetensors"):
        load_store(tmp_path)
    store.save(tmp_path)
    with pytest.raises(ConfigError, match="another model"):
        load_store(tmp_path, OTHER)
    table = tmp_path / "latents.csv"
    table.write_text(table.read_text().replace("case 1,", "case one,"))
    with pytest.raises(DataError, match="not the one"):
        load_store(tmp_path)
    tensors = tmp_path / "latents.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(DataError, match="no whole"):
        load_store(tmp_path)
