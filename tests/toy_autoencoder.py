"""A diffusion autoencoder small enough for tests, and images that it learns in seconds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from toy import fabric

from cfxai.diffusion.sampling import Sampling
from cfxai.diffusion.schedule import Schedule
from cfxai.loop import train_step
from cfxai.methods.diffusion_autoencoder import DenoisingLoss, DiffusionAutoencoder
from cfxai.nn.autoencoder import Autoencoder


def small(**settings: Any) -> Autoencoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 8, "multipliers": (1, 2), "encoder_multipliers": (1, 2, 2), "blocks": 1, "attention": (),
        "groups": 4, "latent": 6, "embedding": 8, "dropout": 0.0, "patch": 2,
    }  # fmt: skip
    return Autoencoder(**(sizes | settings))


def stirred(network: nn.Module) -> nn.Module:
    """The network with no parameter at zero, where much of it starts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def toy_method(*, loss: Mapping[str, Any] | None = None, **settings: Any) -> DiffusionAutoencoder:
    given: dict[str, Any] = {
        "autoencoder": small(), "schedule": Schedule(), "sampling": Sampling(steps=12), "steps": 12, "average": 0.95,
    }  # fmt: skip
    return DiffusionAutoencoder(loss=DenoisingLoss(**(loss or {})), **(given | settings))


def blobs(step: int, size: int = 16, pixels: int = 16) -> dict[str, Tensor]:
    """Dark images; every second one has a bright disc in the middle. Brightness varies."""
    random = torch.Generator().manual_seed(step)
    label, line = torch.arange(size) % 2, torch.linspace(-1, 1, pixels)
    disc = (line[:, None] ** 2 + line**2 < 0.3).float()
    level = 0.3 * torch.rand(size, 1, 1, 1, generator=random) - 0.8
    noise = 0.02 * torch.randn(size, 1, pixels, pixels, generator=random)
    return {"image": level + noise + 1.2 * disc * label.view(-1, 1, 1, 1), "label": label}


def trained(method: DiffusionAutoencoder, steps: int, precision: str = "32-true") -> list[dict[str, float]]:
    machine = fabric(precision)
    optimizers = {name: machine.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return [train_step(method, optimizers, machine, blobs(step), step, 0) for step in range(steps)]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
