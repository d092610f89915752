"""Networks that torch.compile turns into code of their own."""

import logging

import torch
from torch import nn

from cfxai.errors import ConfigError

log = logging.getLogger("cfxai")


def compile_in_place(*networks: nn.Module) -> None:
    """From now on their passes, and the way back through them, are fused code, made when a shape is first met.

    Parameters, their names and what is computed stay; so do copies, such as an average of the weights.

    Raises:
        ConfigError: there is no compiler that torch.compile can use.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(_trial)(torch.zeros(8, device=device))  # in seconds; else only the first step would fail
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            "autoencoder.compile: torch.compile does not work here"
            f" ({(str(error).strip() or type(error).__name__).splitlines()[0]}); install a C++ compiler (on Debian:"
            " g++) and the header files of this Python (python3-dev), or set it to false."
        ) from error
    for network in networks:
        network.compile()
    log.info("autoencoder.compile: at the first step torch.compile works for minutes; later runs reuse what it made")


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
