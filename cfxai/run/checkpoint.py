"""Checkpoints: one safetensors file that holds everything, written so that a kill at any moment leaves a whole one.

Tensors are named `module/<name>/…` and `optimizer/<name>/<parameter>/<key>`; everything else is JSON in the file's own
header, with a sha256 over both. Loading never unpickles.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from cfxai.errors import DataError
from cfxai.protocols import Method

State = dict[str, Any]


def save_checkpoint(path: Path, method: Method, state: State) -> None:
    """Writes the method's modules and optimizers and a JSON-able `state` to `path`, atomically."""
    tensors, groups = capture(method)
    text = json.dumps({**state, "optimizers": groups})
    header = {"state": text, "sha256": _digest(tensors, text)}
    write_atomically(path, to_bytes(tensors, header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], State]:
    """The tensors and the state of a checkpoint, checked against its sha256.

    Raises:
        DataError: missing, truncated or altered.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: is not a whole checkpoint ({error}); continue from another one.") from error
    if header.get("sha256") != _digest(tensors, header.get("state", "")):
        raise DataError(f"{path}: its content does not match its sha256; continue from another checkpoint.")
    return tensors, json.loads(header["state"])


def capture(method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a method by name, and its optimizers' settings."""
    tensors = {f"module/{key}": value.detach().contiguous() for key, value in method.modules.state_dict().items()}
    groups = {}
    for name, optimizer in method.optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, values in state["state"].items():
            for key, value in values.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = torch.as_tensor(value).detach().contiguous()
    # Copies, because safetensors refuses tensors that share memory.
    return {name: value.clone() for name, value in tensors.items()}, groups


def restore(method: Method, tensors: Mapping[str, Tensor], state: State) -> None:
    """Puts back what `capture` took."""
    modules = {key.removeprefix("module/"): value for key, value in tensors.items() if key.startswith("module/")}
    own = method.modules.state_dict()
    misfits = [
        k for k in own.keys() | modules.keys() if k not in own or k not in modules or own[k].shape != modules[k].shape
    ]
    if misfits:
        raise DataError(f"this checkpoint is of another architecture (first misfit: {sorted(misfits)[0]}).")
    method.modules.load_state_dict(modules)
    for name, optimizer in method.optimizers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, *rest = key.split("/")
            if kind == "optimizer" and rest[0] == name:
                slots.setdefault(int(rest[1]), {})[rest[2]] = value
        optimizer.load_state_dict({"state": slots, "param_groups": state["optimizers"][name]})
        for parameter, values in optimizer.state.items():
            # Fused steps pair entries by where they lie in memory; a checkpoint has the standard layout.
            values |= {k: _laid_out_as(parameter, v) for k, v in values.items() if v.shape == parameter.shape}


def write_atomically(path: Path, content: bytes) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory.

    Raises:
        DataError: the disk is full or not writable; what was at `path` is still whole.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path}: could not be written ({error.strerror}, {len(content)} bytes); what was there before is intact; "
            "make room and continue the run."
        ) from error


def sweep_temporary(directory: Path) -> None:
    """Removes what a killed process left half-written."""
    for stray in directory.rglob(".*.tmp-*"):
        stray.unlink(missing_ok=True)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
