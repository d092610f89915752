"""Checkpoints hold everything, are whole or absent, and never execute anything."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy import fabric, fit, toy_batch, toy_coin, weights

from cfxai.errors import ConfigError, DataError
from cfxai.loop import train_step
from cfxai.nn.memory_format import convolve_fast
from cfxai.nn.weights import read_weights
from cfxai.run import checkpoint
from cfxai.run.checkpoint import capture, load_checkpoint, restore, save_checkpoint, sweep_temporary, write_atomically


def trained(steps: int = 3) -> Any:
    coin = toy_coin()
    for step in range(steps):
        train_step(coin, optimizers(coin), fabric(), toy_batch(step), step, 0)
    return coin


def optimizers(coin: Any) -> Any:
    return {name: fabric().setup_optimizers(optimizer) for name, optimizer in coin.optimizers.items()}


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip_of_weights_averages_spectral_norms_and_adam(tmp_path: Path) -> None:
    coin, other = trained(), toy_coin()
    save_checkpoint(tmp_path / "a.ckpt", coin, {"step": 3, "best": float("-inf")})
    tensors, state = load_checkpoint(tmp_path / "a.ckpt")
    restore(other, tensors, state)
    assert (state["step"], state["best"]) == (3, float("-inf"))
    assert same(capture(other)[0], capture(coin)[0])
    assert any("exp_avg_sq" in name for name in tensors)
    assert any(name.endswith("_u") for name in tensors), "the spectral norm's vectors are part of it"
    for step in (3, 4):
        train_step(coin, optimizers(coin), fabric(), toy_batch(step), step, 0)
        train_step(other, optimizers(other), fabric(), toy_batch(step), step, 0)
    assert same(weights(coin), weights(other))


class OneConvolution:
    """A method of one layer whose Adam steps in one pass over memory."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = convolve_fast(nn.Conv2d(3, 4, 3))
        self.modules = nn.ModuleDict({"network": network})
        self.optimizers = {"network": torch.optim.Adam(network.parameters(), 0.1, fused=True)}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "network", {"square": self.modules["network"](batch["image"]).square().mean()}


def test_a_fused_optimizer_continues_with_weights_that_are_laid_out_channels_last(tmp_path: Path) -> None:
    def step(method: Any) -> None:
        train_step(method, optimizers(method), fabric(), {"image": torch.linspace(-1, 1, 384).view(2, 3, 8, 8)}, 0, 0)

    kept, continued = OneConvolution(), OneConvolution()
    step(kept)
    save_checkpoint(tmp_path / "a.ckpt", kept, {})
    restore(continued, *load_checkpoint(tmp_path / "a.ckpt"))
    for method in (kept, continued):
        step(method)
    assert same(kept.modules.state_dict(), continued.modules.state_dict())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    coin = toy_coin()
    save_checkpoint(tmp_path / "a.ckpt", coin, {})
    del coin.modules["discriminator"]
    with pytest.raises(DataError, match=r"another architecture \(first misfit: discriminator\."):
        restore(coin, *load_checkpoint(tmp_path / "a.ckpt"))


WHOLE: list[bytes] = []


def whole(folder: Path) -> bytes:
    if not WHOLE:
        save_checkpoint(folder / "whole.ckpt", toy_coin(), {"step": 1})
        WHOLE.append((folder / "whole.ckpt").read_bytes())
    return WHOLE[0]


@given(data=st.data())
def test_a_truncated_or_altered_file_is_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(whole(folder))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = folder / "damaged.ckpt"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.ckpt"):
        load_checkpoint(damaged)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "last.ckpt")


SAVE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
import torch
from cfxai.run.checkpoint import save_checkpoint

class Method:
    optimizers = {}
    modules = torch.nn.ModuleDict({"net": torch.nn.Linear(300, 700)})

for step in count():
    torch.nn.init.constant_(Method.modules["net"].weight, step)
    save_checkpoint(Path(sys.argv[1]) / "last.ckpt", Method, {"step": step})
    if not step:
        print("ready", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """20 kills; each finds `last.ckpt` readable and its tensors of the step that it names."""
    chance, strays = random.Random(0), 0
    # One interpreter imports torch; what is killed are forks of it.
    script = (
        f"import os\nfrom cfxai.run import checkpoint\nfor line in __import__('sys').stdin:\n"
        f"    pid = os.fork()\n    if not pid:\n        exec({SAVE_FOR_EVER!r}, {{'__name__': '__main__'}})\n"
        f"    print(pid, flush=True)\n    os.waitpid(pid, 0)\n    print('gone', flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        for _ in range(20):
            parent.stdin.write("go\n")
            parent.stdin.flush()
            said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
            assert "ready" in said
            time.sleep(chance.uniform(0, 0.05))
            os.kill(int((said - {"ready"}).pop()), signal.SIGKILL)
            assert parent.stdout.readline() == "gone\n"
            tensors, state = load_checkpoint(tmp_path / "last.ckpt")
            assert (tensors["module/net.weight"] == state["step"]).all()
            strays += len(list(tmp_path.glob(".last.ckpt.tmp-*")))
            sweep_temporary(tmp_path)
            assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt"]
        parent.stdin.close()
    assert strays, "some of the kills should have hit a write"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "last.ckpt"
    write_atomically(target, b"before")
    monkeypatch.setattr(checkpoint.os, call, full)
    with pytest.raises(DataError, match=r"last\.ckpt: could not be written \(No space left on device, 5 bytes\)"):
        write_atomically(target, b"after")
    assert target.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_full_from_the_first_byte(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    target = tmp_path / "last.ckpt"
    write_atomically(target, b"before")
    (tmp_path / f".last.ckpt.tmp-{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left"):
        write_atomically(target, b"after" * 10000)
    assert target.read_bytes() == b"before"


def test_a_full_disk_ends_a_training_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(toy_coin(), tmp_path, steps=3)
    _, before = load_checkpoint(tmp_path / "checkpoints/last.ckpt")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(DataError, match="could not be written"):
        fit(toy_coin(), tmp_path, steps=6)
    assert load_checkpoint(tmp_path / "checkpoints/last.ckpt")[1] == before


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["last.ckpt", "weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_never_executed(tmp_path: Path, name: str, form: str) -> None:
    file, harmed = tmp_path / name, tmp_path / "harmed"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Bomb(harmed), protocol=2))
    else:
        torch.save({"state_dict": {"a": torch.ones(1)}, "bomb": Bomb(harmed)}, file)
    with pytest.raises((DataError, ConfigError), match=file.name):
        load_checkpoint(file) if name == "last.ckpt" else read_weights(file)
    assert not harmed.exists()
