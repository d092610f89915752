"""Trained networks as files: written whole, with what made them, and trained once for all runs that share a cache."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import save as to_bytes
from torch import nn

from cfxai.nn.weights import digest
from cfxai.run.checkpoint import write_atomically
from cfxai.run.directory import Run, shown

log = logging.getLogger("cfxai")


def trained_once(
    name: str, train: Callable[[], tuple[nn.Module, dict[str, Any]]], cached: Path, artefact: Path, run: Run
) -> None:
    """Leaves `artefact`, a copy of `cached`; where that is missing it is trained first, by one process at a time.

    Args:
        name: what log lines call the network.
        train: to the trained network and what its file says about it.
        run: stops waiting for another process when it is asked to.
    """
    cached.parent.mkdir(parents=True, exist_ok=True)
    with waiting_for(FileLock(cached.with_suffix(".lock")), run):
        if cached.is_file():
            log.info("%s: taken from the cache, %s", name, shown(cached))
        else:
            write_network(cached, *train())
    copy_atomically(cached, artefact)


def write_network(path: Path, network: nn.Module, about: dict[str, Any]) -> None:
    """Weights, and in the header how to build the network and where it comes from."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, to_bytes(tensors, {"about": json.dumps({**about, "sha256": digest(network)})}))


@contextmanager
def waiting_for(lock: FileLock, run: Run) -> Iterator[None]:
    """Holds the lock as soon as no other process does.

    Raises:
        Preempted: the run was asked to stop while it waited.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is training the same network; waiting for it")
        with suppress(Timeout):
            lock.acquire(cancel_check=lambda: run.stop_requested() is not None)
        run.stop_if_requested()
    try:
        yield
    finally:
        lock.release()


def copy_atomically(source: Path, target: Path) -> None:
    """A copy with the times of its source; its folder is made if need be."""
    write_atomically(target, source.read_bytes())
    shutil.copystat(source, target)
