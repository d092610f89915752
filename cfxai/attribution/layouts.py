"""How a layer's output lays out channels and positions.

Each layout reads an output as `maps` [b c *spatial], and makes an `output` that has such maps; what belongs to no
position is then as in `like`, an output for as many images or for one.
"""

from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn


class ChannelsFirst:
    """[b c *spatial], as in convolutional networks."""

    def maps(self, output: Tensor) -> Tensor:
        return output

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        return maps


class ChannelsLast:
    """[b *spatial c], as in Swin transformers."""

    def maps(self, output: Tensor) -> Tensor:
        return output.movedim(-1, 1)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        return maps.movedim(1, -1)


@dataclass(frozen=True)
class Tokens:
    """[b n c], as in vision transformers: `prefix` tokens without a position, then one per cell of `grid`."""

    prefix: int
    grid: tuple[int, ...]

    def maps(self, output: Tensor) -> Tensor:
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        before = like[:, : self.prefix].expand(len(maps), -1, -1)
        return torch.cat([before, maps.flatten(2).transpose(1, 2)], 1)


Layout = ChannelsFirst | ChannelsLast | Tokens
MOST_UNEVEN = 2.0
"""Of the strides along the axes of an image: what differs more are channels."""


def layout(network: nn.Module, shape: torch.Size, image: torch.Size) -> Layout | None:
    """Of a layer's output of this shape for images of that shape; None where positions cannot be told from channels.

    Tokens and channels-last maps are known of timm's networks, which say so.
    """
    if len(shape) == len(image):
        says_so = any(getattr(module, "output_fmt", None) == "NHWC" for module in network.modules())
        first = _unevenness(shape[2:], image[2:])
        last = _unevenness(shape[1:-1], image[2:]) if says_so else inf
        if min(first, last) <= MOST_UNEVEN:
            return ChannelsLast() if last <= first else ChannelsFirst()
    elif len(shape) == 3 and (transformer := vision_transformer(network)):
        tokens = Tokens(transformer.num_prefix_tokens, patch_grid(transformer, image))
        if shape[1] == tokens.prefix + prod(tokens.grid) and shape[2] == transformer.embed_dim:
            return tokens
    return None


def vision_transformer(network: nn.Module) -> Any:
    """The part of `network` that is timm's ViT or of its kind, tokens on a grid of patches; None if there is none."""
    named = ("num_prefix_tokens", "patch_embed", "embed_dim")
    return next((m for m in network.modules() if all(hasattr(m, name) for name in named)), None)


def patch_grid(transformer: Any, image: torch.Size) -> tuple[int, ...]:
    """Patches along each axis of images of this shape."""
    return tuple(side // patch for side, patch in zip(image[2:], transformer.patch_embed.patch_size, strict=True))


def _unevenness(small: torch.Size, large: torch.Size) -> float:
    """The largest stride over the smallest, if these were positions: channels differ more."""
    strides = [whole / part for whole, part in zip(large, small, strict=True)]
    return max(strides) / min(strides)
