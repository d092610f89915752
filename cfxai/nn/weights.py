"""Weights in files that cannot execute anything: safetensors, or tensors-only torch files."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cfxai.errors import ConfigError

CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep a network's state in a larger checkpoint."""


def load_weights(module: nn.Module, path: str | Path, *, inner: str | None = None) -> None:
    """Loads `path` into `module`, or into its sub-module `inner` when the file holds that network's own names.

    A buffer of the module's that stands empty (None) is filled if the file has it.

    Raises:
        ConfigError: no such file, not a safe file, or tensors that do not fit; the first misfits are named.
    """
    state = read_weights(path)
    target = module
    if inner is not None and not any(key.startswith(f"{inner}.") for key in state):
        target = module.get_submodule(inner)
    for name in [key for key in state if "." not in key and getattr(target, key, key) is None]:
        setattr(target, name, torch.empty_like(state[name]))
    own = target.state_dict()
    wrong = [k for k in own if k not in state] + [k for k in state if k not in own]
    wrong += [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise ConfigError(
            f"{path}: these weights are of another network ({len(wrong)} tensors missing, unknown or of another shape, "
            f"first: {', '.join(wrong[:3])}); check the classifier's name, channels and classes."
        )
    target.load_state_dict(state)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a torch file that holds nothing else."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read as weights; it is truncated or not a weights file.") from error
    except Exception as error:  # pickle.UnpicklingError lives in a module that we never want to import
        raise ConfigError(f"{path}: holds more than tensors and is not loaded; convert it to safetensors.") from error
    if isinstance(state, dict):
        state = next((state[key] for key in CONTAINERS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: is not a state dictionary of tensors; save `network.state_dict()`.")
    return state


def digest(module: nn.Module) -> str:
    """sha256 over names, shapes and bytes of a module's state: the identity of a trained network."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return sha.hexdigest()
