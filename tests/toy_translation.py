"""Images with and without a bright spot, a classifier that sees it, and a few steps of translating between them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import fabric

from cfxai.loop import train_step


class Bright(nn.Module):
    """Abnormal = somewhere there is a bright spot; differentiable, nowhere certain."""

    def forward(self, image: Tensor) -> Tensor:
        spots = F.avg_pool2d(image, 5, 1).flatten(1)
        z = 2.5 * (torch.logsumexp(16 * spots, 1) / 16 - 0.35)
        return torch.stack([-z, z], 1)


def spots(size: int, seed: int, pixels: int = 16) -> dict[str, Tensor]:
    """Noise, every second image with a bright spot at a random place."""
    random = torch.Generator().manual_seed(seed)
    label, line = torch.arange(size) % 2, torch.arange(float(pixels))
    row, column = (torch.rand(2, size, 1, generator=random) * (pixels - 8) + 4 - line).square()
    spot = torch.exp(-(row[:, :, None] + column[:, None]) / 12)[:, None] * label.view(-1, 1, 1, 1)
    noise = 0.2 * torch.randn(size, 1, pixels, pixels, generator=random)
    return {"image": (noise - 0.5 + 1.3 * spot).clamp(-1, 1), "label": label}


def spots8(step: int) -> dict[str, Tensor]:
    return spots(8, step)


def stirred(network: Any) -> Any:
    """With weights that are no longer the identity's."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def run_steps(method: Any, steps: int, batch: Any = spots8) -> dict[str, float]:
    cpu, values = fabric(), {}
    optimizers = {name: cpu.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    for step in range(steps):
        values = train_step(method, optimizers, cpu, batch(step), step, 0)
    return values
