"""The CycleGAN of CFE's own code, from a checkout of it, on our initial weights and our classifier."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai.methods.cyclegan import CycleGAN

ABSENT = ("wandb",)
"""What it imports to log, and a benchmark does not need."""


class Module(nn.Module):
    """What its classes use of a LightningModule with manual optimisation; logging costs nothing."""

    trained: tuple[Optimizer, Optimizer]  # of discriminators and of generators, in its order

    def optimizers(self) -> tuple[Optimizer, Optimizer]:
        return self.trained

    def toggle_optimizer(self, optimizer: Optimizer) -> None:
        """No gradients for what the other optimizer trains."""
        for other in self.trained:
            for group in other.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(other is optimizer)

    def untoggle_optimizer(self, optimizer: Optimizer) -> None:
        for other in self.trained:
            for group in other.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def log(self, *_: Any, **__: Any) -> None:
        pass


class Softmax(nn.Module):
    """The classifier as that code wants it: probabilities."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(image).softmax(1)


def step(checkout: Path, method: CycleGAN, images: list[Tensor], width: int) -> Callable[[int], dict[str, float]]:
    """The number of a step -> the generators' terms, weighted as they are trained."""
    code = imported(checkout)
    model = code.CycleGAN.__new__(code.CycleGAN)
    nn.Module.__init__(model)
    model.lambda_cycle, model.lambda_id, model.classifier_weight = 10.0, 1.0, 1
    model.g_NP, model.g_PN = (code.ResUNetGenerator(width, channels=1) for _ in range(2))
    model.d_N, model.d_P = (code.Discriminator(2 * width) for _ in range(2))
    model.classifier = Softmax(method.classifier)
    (to_normal, to_abnormal), (d_normal, d_abnormal) = (
        list(pair.children()) for pair in (method.generator, method.discriminator)
    )
    for theirs, ours in (
        (model.g_PN, to_normal),
        (model.g_NP, to_abnormal),
        (model.d_N, d_normal),
        (model.d_P, d_abnormal),
    ):
        copy_weights(ours, theirs)
    model.to(images[0].device)
    optimizers = [
        Adam([*a.parameters(), *b.parameters()], lr=2e-4, betas=(0.5, 0.999))
        for a, b in ((model.d_N, model.d_P), (model.g_NP, model.g_PN))
    ]
    model.trained = (optimizers[0], optimizers[1])
    terms: dict[str, float] = {}
    model.log = lambda name, value, **_: terms.__setitem__(name, float(value.detach()))

    def run(number: int) -> dict[str, float]:
        model.training_step(tuple(images[number % len(images)].chunk(2)), number)
        return {
            "adv": terms["adversarial_loss"],
            "counterfactual": terms["class_loss"],
            "cycle": model.lambda_cycle * terms["reconstruction_loss"],
            "identity": model.lambda_id * terms["identity_loss"],
        }

    return run


def imported(checkout: Path) -> ModuleType:
    """Its module of models, with stand-ins for Lightning and for what it logs to."""
    lightning = MagicMock()
    lightning.LightningModule = Module
    sys.modules["lightning"] = lightning
    for name in ABSENT:
        sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout))
    return import_module("src.models")


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Ours to theirs, tensor by tensor in the order of their making.

    Raises:
        SystemExit: the networks are others.
    """
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=False))
    if len(pairs) != len(list(theirs.parameters())) or any(a.shape != b.shape for a, b in pairs):
        raise SystemExit("--peer: its networks are others.")
    with torch.no_grad():
        for own, other in pairs:
            other.copy_(own)
