"""The same network in less time, for the many forward passes of methods that look at changed images."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cfxai.nn.autocast import Autocast, in_full
from cfxai.nn.freeze import frozen
from cfxai.nn.memory_format import channels_last
from cfxai.protocols import Image

WORTH_FOLDING = 100
"""Passes of one image from which folding saves more time than it takes."""


@contextmanager
def fast_inference(network: nn.Module, image: Image, passes: int) -> Iterator[nn.Module]:
    """The network for `passes` passes of an image like `image`: evaluation mode, channels-last, under inference_mode.

    If there are many, batch norms are folded into convolutions, in a copy. It is made anew for each call, and so
    follows the weights; `network` itself is afterwards as before. Under autocast the network alone computes in 16 bits.
    """
    with in_full(image.device) as precision, torch.inference_mode(False), torch.no_grad(), frozen(network):
        copy = folded(network, image) if passes >= WORTH_FOLDING else network
        with channels_last(copy), torch.inference_mode():
            yield copy if precision is None else Autocast(copy, precision)


@torch.no_grad()
def folded(network: nn.Module, image: Image) -> nn.Module:
    """A copy in evaluation mode whose batch norms are part of the convolutions before them; else `network` itself.

    Pairs are found by running one random image of `image`'s size: a batch norm and the convolution whose output it
    alone reads, each called once. Where the copy's output then differs, for instance because a convolution standardises
    its weights, or where the network cannot be copied, nothing is folded.
    """
    noise = torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)[None] * 2 - 1
    with frozen(network):
        pairs, expected = _convolutions_before_norms(network, noise)
        if not pairs:
            return network
        try:
            copy = deepcopy(network)
        except (RuntimeError, TypeError):  # a module that holds what only its maker can copy
            return network
        for convolution, norm in pairs:
            _fold(copy, convolution, norm)
        same = torch.allclose(copy(noise), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return copy if same else network


def _convolutions_before_norms(network: nn.Module, image: Image) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of (convolution, norm), and the network's output."""
    calls: Counter[str] = Counter()
    pairs: list[tuple[str, str]] = []

    def sign(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        calls[name] += 1
        output._made_by = name  # type: ignore[attr-defined]

    def look(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        if maker := _maker(args[0] if args else None):
            pairs.append((maker, name))

    with ExitStack() as hooks, torch.inference_mode(False), _Readers() as readers:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and not is_parametrized(module):
                hooks.enter_context(module.register_forward_hook(partial(sign, name)))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                hooks.enter_context(module.register_forward_pre_hook(partial(look, name)))
        output = network(image)
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == readers.count[pair[0]] == 1], output


class _Readers(TorchDispatchMode):
    """Counts the operations that take what each convolution made; a shortcut past a norm is one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count.update(maker for value in tree_leaves((args, kwargs)) if (maker := _maker(value)))
        return func(*args, **(kwargs or {}))


def _maker(value: object) -> str | None:
    """The name of the convolution that returned this tensor."""
    return getattr(value, "_made_by", None)


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    old, bn = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(old, nn.Conv2d | nn.Conv3d)
    assert isinstance(bn, _BatchNorm)
    network.set_submodule(convolution, fuse_conv_bn_eval(old, bn))
    # timm's norms also activate; their dropout does nothing in evaluation mode.
    network.set_submodule(norm, getattr(bn, "act", None) or nn.Identity())
