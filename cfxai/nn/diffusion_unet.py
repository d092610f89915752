"""The U-Net that a diffusion model denoises with, told the time and a latent code in every block."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.nn.blocks import CONV, DepthToSpace
from cfxai.nn.contraction import Contraction, Plan, Stage
from cfxai.nn.modulated_block import ModulatedBlock, Resample, group_norm, zeroed
from cfxai.protocols import Image


class DiffusionUNet(nn.Module):
    """(noisy images [b c *spatial], times [b], z [b latent]) -> [b c *spatial]; zero everywhere before training.

    The U-Net of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233) with the diffusion autoencoder's blocks.
    Sides must be multiples of `plan.stride(multipliers)`.

    Args:
        plan: of the network. multipliers: channels of each level, finest first, in units of `plan.width`.
        latent: length of z.
        embedding: length of the time's embedding.
        dropout: of every block.
    """

    def __init__(
        self, plan: Plan, multipliers: Sequence[int], *, latent: int, embedding: int = 512, dropout: float = 0.0
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, resample: Resample) -> nn.Module:
            return ModulatedBlock(
                inputs,
                outputs,
                embedding=embedding,
                latent=latent,
                dropout=dropout,
                dims=plan.dims,
                groups=plan.groups,
                resample=resample,
            )

        self.plan = plan
        self.time = nn.Sequential(nn.Linear(plan.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.down = Contraction(plan, multipliers, block)
        widths = plan.widths(multipliers)
        self.middle = plan.middle(widths[-1], block)
        self.up, self.grow, before = nn.ModuleList(), nn.ModuleList(), widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            stages = []
            for skip in reversed(self.down.features[level]):
                stages.append(Stage(block(before + skip, width, "same"), plan.attention_at(level, width)))
                before = width
            self.up.append(nn.ModuleList(stages))
            if level:
                self.grow.append(Stage(block(width, width, "up")))
        self.head = nn.Sequential(
            group_norm(widths[0], plan.groups),
            nn.SiLU(),
            zeroed(CONV[plan.dims](widths[0], plan.channels * plan.patch**plan.dims, 3, padding=1)),
            DepthToSpace(plan.patch, plan.dims),
        )

    def forward(self, noisy: Image, time: Float[Tensor, " b"], z: Float[Tensor, "b z"]) -> Image:
        told = self.time(sinusoids(time, self.plan.width)), z
        found = self.down(noisy, *told)
        h = found[-1]
        for stage in self.middle:
            h = self.plan.run(stage, h, *told)
        for level, stages in enumerate(self.up):
            if level:
                h = self.plan.run(self.grow[level - 1], h, *told)
            for stage in cast(nn.ModuleList, stages):
                h = self.plan.run(stage, torch.cat([h, found.pop()], 1), *told)
        return self.head(h)


def sinusoids(time: Float[Tensor, " b"], length: int) -> Float[Tensor, "b e"]:
    """Cosines, then sines, of the times at `length` / 2 frequencies from 1 to 1e-4 (Vaswani et al. 2017)."""
    half = length // 2
    frequency = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000) / half))
    angle = time.float()[:, None] * frequency
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    return torch.cat([waves, torch.zeros_like(waves[:, :1])], 1) if length % 2 else waves
