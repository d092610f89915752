"""The two commands as users type them, with stand-ins for what they start."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from cfxai.cli import commands
from cfxai.errors import CfxError, ConfigError, NumericsError, Preempted

ROOT = Path(__file__).parents[1]

EXPERIMENT = """\
defaults: [base, _self_]
method: {_target_: cfxai.methods.coin.Coin}
data: {_target_: cfxai.data.dataset.Data, size: 64}
classifier: {_target_: cfxai.nn.Net}
loss: {kl: 1.0, tv: 0.1}
"""

FAILURES: dict[int, Callable[[], BaseException]] = {
    13: lambda: NumericsError("loss.kl is NaN at step 3."),
    14: lambda: Preempted("saved at step 3."),
    15: KeyboardInterrupt,
    16: lambda: ZeroDivisionError("a bug"),
}


def train(cfg: DictConfig, directory: Path) -> float:
    """A run whose seed decides how it ends."""
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    if cfg.seed in FAILURES:
        raise FAILURES[cfg.seed]()
    return float(cfg.loss.kl + cfg.seed)


def stand_in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `small.yaml` to stand in, and stand-ins for the drivers; tests make it a fixture."""
    training: Any = ModuleType("cfxai.training")
    training.train = train
    monkeypatch.setitem(sys.modules, "cfxai.training", training)
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(EXPERIMENT)
    return tmp_path


def exit_code(line: str, command: Callable[[list[str]], int] = commands.train_command) -> int:
    try:
        return command(line.split())
    except CfxError as error:
        return error.exit_code


def complaint(line: str, command: Callable[[list[str]], int] = commands.train_command) -> str:
    with pytest.raises(ConfigError) as caught:
        command(line.split())
    return str(caught.value)


def tool(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)
