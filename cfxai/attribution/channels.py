"""From what each channel of each pixel contributes to one number per pixel."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels, Saliency, Target

Channels = Literal["sum", "abs", "max", "l2"]


class Channelwise(ABC):
    """An attributor whose map is the contributions of a pixel's channels, reduced to one number.

    Args:
        channels: `sum` keeps the sign; `abs`, the sum of absolute values, `max`, the largest of them, and `l2`, their
            Euclidean norm, are >= 0 and say how much, not in which direction.

    Raises:
        ConfigError: another `channels`.
    """

    def __init__(self, channels: str) -> None:
        if channels not in get_args(Channels):
            raise ConfigError(f"channels: choose one of {', '.join(get_args(Channels))}, not '{channels}'.")
        self.channels = channels

    @abstractmethod
    def contributions(self, image: Image, target: Labels | Target) -> Image:
        """[b c *spatial]: signed, what each value of the image contributes to the target's score."""

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        return self.reduced(self.contributions(image, target))

    def reduced(self, contributions: Image) -> Saliency:
        """Contributions [b c *spatial] as a map [b *spatial]."""
        match self.channels:
            case "sum":
                return contributions.sum(1)
            case "abs":
                return contributions.abs().sum(1)
            case "max":
                return contributions.abs().amax(1)
            case _:
                return torch.linalg.vector_norm(contributions, dim=1)
