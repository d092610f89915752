"""A run's directory: its lock, its log, what it ran on, its status, and the signals that ask it to stop.

config.yaml        the resolved configuration
environment.json   versions, threads, git state, command line
manifest.csv       every file of the data with its sha256 and split
status.json        running | complete | preempted | failed
log.txt            what was printed
checkpoints/       last.ckpt, best.ckpt
weights/           classifier and networks as safetensors
metrics.csv, tensorboard/, samples/step_*.png
classifier/        the same for the classifier's own training, when this run trained it
evaluation/        metrics.json, panels/, masks/
"""

import json
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.logging import RichHandler

from cfxai.errors import ConfigError, Preempted
from cfxai.run.checkpoint import sweep_temporary, write_atomically
from cfxai.run.progress import console

PACKAGES = ("cfxai", "torch", "torchvision", "monai", "timm", "numpy", "scipy", "lightning-fabric", "hydra-core")
STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Run:
    """What a training may ask of its directory. Open it with `opened`, which locks it.

    Args:
        directory: of the run.
        whole: the run that this one is a part of; it is what is stopped and continued.
    """

    def __init__(self, directory: Path, whole: "Run | None" = None) -> None:
        self.directory = directory
        self.whole = whole
        self.checkpoints = directory / "checkpoints"
        self.weights = directory / "weights"
        self.evaluation = directory / "evaluation"
        self._stop: str | None = None

    @property
    def state(self) -> str:
        """What `status.json` says: new, running, complete, preempted or failed."""
        path = self.directory / "status.json"
        return json.loads(path.read_text())["state"] if path.is_file() else "new"

    def mark(self, state: str, **facts: Any) -> None:
        status = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time(), **facts}
        self.write("status.json", json.dumps(status, indent=1))

    def write(self, name: str, text: str) -> None:
        write_atomically(self.directory / name, text.encode())

    def part(self, name: str) -> "Run":
        """A run inside this one, which stops when this one is asked to."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return Run(directory, whole=self)

    def stop_requested(self) -> str | None:
        """The signal that asked this process to stop, if one did."""
        return self.whole.stop_requested() if self.whole else self._stop

    def stop_if_requested(self) -> None:
        """Raises Preempted where there is nothing to save."""
        if self.stop_requested():
            raise Preempted(self.preempted_sentence())

    def preempted_sentence(self) -> str:
        if self.whole:
            return self.whole.preempted_sentence()
        advice = continue_command(self.directory)
        return f"stopped by {self.stop_requested()}; the run is saved, continue it with: {advice}"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = signal.Signals(number).name


def continue_command(directory: Path) -> str:
    return f"python tools/train.py -cp {shown(directory)}"


def shown(path: Path) -> str:
    """A path as a user would type it: relative to where they stand when it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@contextmanager
def opened(directory: Path) -> Iterator[Run]:
    """Locks a run's directory, logs to it, listens for SIGTERM and SIGUSR1, and records how the process left it.

    Raises:
        ConfigError: another process is at work there.
    """
    run = Run(directory)
    handlers = {number: signal.signal(number, run._on_signal) for number in STOPPING}
    try:
        with locked(directory):
            try:
                sweep_temporary(directory)
                yield run
            except Preempted:
                run.mark("preempted")
                raise
            except BaseException as error:
                if run.state not in ("complete", "new"):
                    run.mark("failed", why=f"{type(error).__name__}: {error}"[:500])
                raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run's directory, which is made if need be, and logs to it.

    Raises:
        ConfigError: another process is at work there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{shown(directory)}: another process is running here; wait for it, or stop it first."
        ) from error
    try:
        with logging_to(directory / "log.txt"):
            yield
    finally:
        lock.release()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """The `cfxai` logger's lines to the console and, with times, to a file."""
    logger = logging.getLogger("cfxai")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    to_file = logging.FileHandler(path)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_console = RichHandler(console=console, show_path=False, show_time=False, show_level=False, markup=False)
    logger.handlers = [to_file, to_console]
    try:
        yield
    finally:
        logger.handlers = []
        to_file.close()


def environment() -> dict[str, Any]:
    """What this process runs on: enough to tell why two runs differ."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git(),
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed_files": len(ask("status", "--porcelain").splitlines())}
    except (OSError, subprocess.CalledProcessError):
        return None
