"""Several networks as one that is told the class: CycleGAN's two generators, or its two discriminators."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.protocols import Image, Labels


class PerClass(nn.Module):
    """(image, condition) -> what the condition's own network makes of the image.

    Args:
        networks: by any name, in the order of the classes; each takes (image, condition) and returns a tensor.

    Attributes:
        classes: how many there are.

    Raises:
        ConfigError: (when called) a condition that has no network.
    """

    def __init__(self, **networks: Any) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)
        self.classes = len(networks)

    def forward(self, image: Image, condition: Labels) -> Float[Tensor, "b *out"]:
        places, made = [], []
        for label, network in enumerate(self.children()):
            place = (condition == label).nonzero()[:, 0]
            if len(place):
                places.append(place)
                made.append(network(image[place], condition[place]))
        if sum(map(len, places)) < len(condition):
            raise ConfigError(f"method.classes: more than the {self.classes} that there are networks for.")
        return torch.cat(made)[torch.cat(places).argsort()]
