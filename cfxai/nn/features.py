"""What a network computes on the way to its logits, read without leaving a trace in it."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image


def penultimate(classifier: nn.Module) -> Callable[[Image], Tensor]:
    """The features that enter the classifier's last linear layer (or last 1x1 convolution), averaged over positions.

    "Last" is by order of execution, so that the registration order of a network's parts does not matter. Gradients with
    respect to the image pass.

    Raises:
        ConfigError: (by the returned function) the classifier runs through neither kind of layer.
    """
    heads = [module for module in classifier.modules() if _is_linear(module)]

    def features(image: Image) -> Tensor:
        entering: list[tuple[nn.Module, Tensor]] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            entering[:] = [(module, args[0])]

        with ExitStack() as hooks, frozen(classifier):
            for module in heads:
                hooks.enter_context(module.register_forward_pre_hook(keep))
            classifier(image)
        if not entering:
            raise ConfigError("The classifier has no linear layer whose inputs could serve as features; name others.")
        head, value = entering[0]
        channels_first = value if not isinstance(head, nn.Linear) else value.movedim(-1, 1)
        return channels_first.reshape(*channels_first.shape[:2], -1).mean(2)

    return features


def last_layer(classifier: nn.Module, image: Image) -> nn.Module:
    """The linear layer (or 1x1 convolution) that runs last on `image`: the classifier's head.

    Raises:
        ConfigError: the classifier runs through neither kind of layer.
    """
    ran: list[nn.Module] = []
    with ExitStack() as hooks, frozen(classifier), torch.no_grad():
        for module in filter(_is_linear, classifier.modules()):
            hooks.enter_context(module.register_forward_hook(lambda layer, *_: ran.append(layer)))
        classifier(image)
    if not ran:
        raise ConfigError("The classifier has no linear layer that could learn while the rest is frozen.")
    return ran[-1]


def trace(network: nn.Module, image: Image) -> list[tuple[str, torch.Size]]:
    """Name and output shape of every sub-module that returns a tensor, in the order in which they finish."""
    seen: list[tuple[str, torch.Size]] = []

    def note(name: str, _module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append((name, output.shape))

    with ExitStack() as hooks, frozen(network), torch.no_grad():
        for name, module in network.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
        network(image)
    return seen


def _is_linear(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) == 1
    return pointwise or isinstance(module, nn.Linear)
