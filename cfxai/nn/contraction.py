"""The descending half of a diffusion network, which its U-Net and its semantic encoder share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint as recomputed

from cfxai.errors import ConfigError
from cfxai.nn.blocks import CONV, SpaceToDepth
from cfxai.nn.modulated_block import Resample, SelfAttention

MakeBlock = Callable[[int, int, Resample], nn.Module]
"""(channels in, channels out, resampling) -> a block, (x, *told) -> x."""


@dataclass(frozen=True)
class Plan:
    """What U-Net and encoder have in common.

    Attributes:
        channels: of the image.
        dims: 2 for images, 3 for volumes.
        patch: sides of the cells that the stem folds into channels, 1, 2 or 4; each doubling makes a network 3 to 4
            times as fast and the image coarser to it.
        width: channels are multiples of this.
        blocks: of each level of the encoder; the U-Net ascends with one more.
        attention: levels with self-attention, 0 = the finest. The middle always has it.
        heads: of attention.
        groups: of normalisation; where they do not divide the channels, the greatest number that divides both.
        checkpoint: keep only what passes between blocks for the backward pass, which computes the rest again (Chen et
            al. 2016, arXiv:1604.06174).

    Raises:
        ConfigError: sizes that make no network.
    """

    channels: int
    dims: int
    patch: int
    width: int
    blocks: int
    attention: tuple[int, ...]
    heads: int
    groups: int
    checkpoint: bool

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ConfigError(f"autoencoder.dims: choose 2 for images or 3 for volumes, not {self.dims}.")
        if self.patch not in (1, 2, 4):
            raise ConfigError(f"autoencoder.patch: choose 1, 2 or 4, not {self.patch}.")
        for key in ("channels", "width", "blocks", "heads", "groups"):
            if getattr(self, key) < 1:
                raise ConfigError(f"autoencoder.{key}: must be 1 or more, got {getattr(self, key)}.")

    def widths(self, multipliers: Sequence[int]) -> list[int]:
        """Channels of each level, finest first."""
        if not multipliers or min(multipliers) < 1:
            raise ConfigError(f"autoencoder.multipliers: needs one or more positive numbers, got {list(multipliers)}.")
        widths = [self.width * multiplier for multiplier in multipliers]
        attending = {widths[-1], *(widths[level] for level in self.attention if level < len(widths))}
        if wrong := [width for width in attending if width % self.heads]:
            raise ConfigError(f"autoencoder.heads: {self.heads} must divide the {wrong[0]} channels of its levels.")
        return widths

    def stride(self, multipliers: Sequence[int]) -> int:
        """What the sides of an image must be multiples of."""
        return self.patch * 2 ** (len(multipliers) - 1)

    def attention_at(self, level: int, channels: int) -> nn.Module:
        if level not in self.attention:
            return nn.Identity()
        return SelfAttention(channels, heads=self.heads, groups=self.groups)

    def middle(self, channels: int, make: MakeBlock) -> nn.ModuleList:
        """Block, attention, block at the coarsest level."""
        attention = SelfAttention(channels, heads=self.heads, groups=self.groups)
        return nn.ModuleList(
            [Stage(make(channels, channels, "same"), attention), Stage(make(channels, channels, "same"))]
        )

    def run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpoint and is_grad_enabled():
            return recomputed(stage, *inputs, use_reentrant=False)
        return stage(*inputs)


class Stage(nn.Module):
    """A block and what follows it: (x, *told) -> x, where `told` is for the block alone."""

    def __init__(self, block: nn.Module, then: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.then = block, then or nn.Identity()

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        return self.then(self.block(x, *told))


class Contraction(nn.Module):
    """Stem, then levels of blocks with a halving between them: (image, *told) -> the features after each of these.

    Args:
        plan: of the network.
        multipliers: of `plan.width`: the channels of each level, finest first.
        make: a block.

    Attributes:
        features: channels after the stem and after each stage, level by level; a halving begins the coarser level.
    """

    def __init__(self, plan: Plan, multipliers: Sequence[int], make: MakeBlock) -> None:
        super().__init__()
        self.plan, widths = plan, plan.widths(multipliers)
        self.stem = nn.Sequential(
            SpaceToDepth(plan.patch, plan.dims),
            CONV[plan.dims](plan.channels * plan.patch**plan.dims, plan.width, 3, padding=1),
        )
        self.features, stages = [[plan.width]], []
        for level, (before, width) in enumerate(pairwise([plan.width, *widths])):
            if level:
                stages.append(Stage(make(before, before, "down")))
                self.features.append([before])
            for block in range(plan.blocks):
                stages.append(Stage(make(width if block else before, width, "same"), plan.attention_at(level, width)))
                self.features[level].append(width)
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Float[Tensor, "b c *spatial"], *told: Tensor) -> list[Tensor]:
        found = [self.stem(image)]
        for stage in self.stages:
            found.append(self.plan.run(stage, found[-1], *told))
        return found
