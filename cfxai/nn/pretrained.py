"""Weights that a training begins with: of the same network, trained on other images or for other classes."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.weights import read_weights

log = logging.getLogger("cfxai")


def start_from(network: nn.Module, path: str | Path) -> None:
    """Loads the state in `path` but for one layer, the head, where it is missing there or has other classes.

    A prefix that the names have there (`module.`, `model.`, `network.` …) does not matter, nor what else the file
    holds. The first convolution of a network for colour images serves grey ones by the sum over its three channels.

    Raises:
        ConfigError: the file cannot be read, or more than one layer is missing or of another shape.
    """
    own = network.state_dict()
    state = _without_prefix(read_weights(path), own)
    taken = {name: fit for name, value in own.items() if (fit := _fit(state.get(name), value)) is not None}
    left = [name for name in own if name not in taken and not name.endswith("num_batches_tracked")]
    layers = {name.rpartition(".")[0] for name in left}
    if not taken or len(layers) > 1:
        raise ConfigError(
            f"{path}: these weights are of another network ({len(left)} of its {len(own)} tensors in {len(layers)} "
            f"layers are missing or of another shape, first: {', '.join(left[:3])}); check classifier.name."
        )
    network.load_state_dict(taken, strict=False)
    anew = f"; {', '.join(left)} missing or of other classes there, and learnt anew" if left else ""
    log.info("classifier: starts from %s, %d tensors%s", path, len(taken), anew)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of `state` under the prefix that makes most of its names those of `own`, without that prefix."""
    prefixes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in own:
                prefixes["".join(f"{part}." for part in parts[:depth])] += 1
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _fit(value: Tensor | None, own: Tensor) -> Tensor | None:
    """`value` as it can stand for `own`; None if it cannot."""
    if value is None or value.shape == own.shape:
        return value
    colour_for_grey = value.ndim == 4 and value.shape[1] == 3 and own.shape == value[:, :1].shape
    return value.sum(1, keepdim=True) if colour_for_grey else None
