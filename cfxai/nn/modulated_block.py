"""Residual blocks of diffusion networks, told the time and the latent code by adaptive group normalisation."""

from math import gcd
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.nn.blocks import CONV, POOL
from cfxai.nn.dropout import Dropout
from cfxai.nn.resampled_conv import combines, grown_kernel

Resample = Literal["same", "down", "up"]
Features = Float[Tensor, "b c *spatial"]
Resampled = Float[Tensor, "b d *resampled"]


class _Block(nn.Module):
    """What both blocks begin with: the shortcut, and conv(SiLU(norm(x))), at the resolution wanted."""

    def __init__(self, inputs: int, outputs: int, dims: int, groups: int, resample: Resample) -> None:
        super().__init__()
        self.norm = group_norm(inputs, groups)
        self.resample, self.grows = resampling(resample, dims), resample == "up" and dims == 2
        self.conv = CONV[dims](inputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else CONV[dims](inputs, outputs, 1)

    def branches(self, x: Features) -> tuple[Resampled, Resampled]:
        return self.shortcut(self.resample(x)), self._convolved(F.silu(self.norm(x)))

    def _convolved(self, x: Features) -> Resampled:
        if self.grows and combines(x):
            return F.conv_transpose2d(x, grown_kernel(self.conv.weight), self.conv.bias, stride=2, padding=1)
        return self.conv(self.resample(x))


class PlainBlock(_Block):
    """x + conv(SiLU(norm(x))): a block of the semantic encoder, with one convolution as in its published code.

    [b inputs *spatial] -> [b outputs *resampled]. `down` is the mean of each 2-wide cell, `up` its repetition, along
    every axis; the shortcut goes the same way, and through a convolution by 1 where channels differ.
    """

    def __init__(
        self, inputs: int, outputs: int, *, dims: int = 2, groups: int = 32, resample: Resample = "same"
    ) -> None:
        super().__init__(inputs, outputs, dims, groups, resample)

    def forward(self, x: Features) -> Resampled:
        shortcut, h = self.branches(x)
        return shortcut + h


class ModulatedBlock(_Block):
    """A block of two convolutions; time and latent code modulate what the second one sees.

    h = conv(dropout(SiLU((norm(h) (1 + s_t) + b_t) (1 + s_z)))), with s_t, b_t and s_z linear in the SiLU of the time's
    embedding and of z (Preechakul et al. 2022, arXiv:2111.15640, as its code has it: z does not shift). The second
    convolution starts at zero, so that the block starts as its shortcut.

    Args:
        embedding: length of the time's embedding.
        latent: length of z.
        dropout: probability.
        groups: of the normalisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        latent: int,
        dropout: float = 0.0,
        dims: int = 2,
        groups: int = 32,
        resample: Resample = "same",
    ) -> None:
        super().__init__(inputs, outputs, dims, groups, resample)
        self.from_time = nn.Linear(embedding, 2 * outputs)
        self.from_z = nn.Linear(latent, outputs)
        self.second_norm = group_norm(outputs, groups)
        self.dropout = Dropout(dropout)
        self.second_conv = zeroed(CONV[dims](outputs, outputs, 3, padding=1))

    def forward(self, x: Features, time: Float[Tensor, "b e"], z: Float[Tensor, "b z"]) -> Resampled:
        shortcut, h = self.branches(x)
        scale, shift = self.from_time(F.silu(time)).chunk(2, 1)
        by_z, norm = 1 + self.from_z(F.silu(z)), self.second_norm
        slope, offset = norm.weight * (1 + scale) * by_z, (norm.bias * (1 + scale) + shift) * by_z
        h = F.silu(scaled_norm(h, norm, slope, offset))
        return shortcut + self.second_conv(self.dropout(h))


class SelfAttention(nn.Module):
    """x plus what each position gathers from all others: [b c *spatial] of the same shape (Vaswani et al. 2017)."""

    def __init__(self, channels: int, *, heads: int = 1, groups: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Features) -> Features:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.inputs(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.output(gathered).transpose(1, 2).reshape(x.shape)


def scaled_norm(x: Features, norm: nn.GroupNorm, slope: Float[Tensor, "b c"], offset: Float[Tensor, "b c"]) -> Features:
    """slope times the normalised x, plus offset, of each sample its own, in one pass; `norm` tells its groups.

    To the normalisation all samples' channels are one sample's.
    """
    joined = x.reshape(1, -1, *x.shape[2:])
    return F.group_norm(joined, len(x) * norm.num_groups, slope.flatten(), offset.flatten(), norm.eps).view_as(x)


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """In as many groups as divide both numbers."""
    return nn.GroupNorm(gcd(groups, channels), channels)


def resampling(resample: Resample, dims: int) -> nn.Module:
    """Half or twice the resolution along every axis, or the same."""
    match resample:
        case "same":
            return nn.Identity()
        case "down":
            return POOL[dims](2)
        case "up":
            return nn.Upsample(scale_factor=2, mode="nearest")


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer itself, all its parameters zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
