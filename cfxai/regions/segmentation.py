"""Regions that a segmentation network finds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError, DataError
from cfxai.nn.weights import load_weights
from cfxai.protocols import RegionMaps


class Segmentation:
    """What `network` says of each image: the soft maps of its output channels, or the labels of its label map.

    Args:
        network: image [b c *spatial] in [-1, 1] -> scores [b k *spatial], or an integer label map [b *spatial] or
            [b 1 *spatial]; it scales images as it needs them.
        labels: name -> output channel, or label.
        weights: its state (safetensors, or a torch file of tensors only); null = it has them already.
        output: what scores are: `softmax` or `sigmoid` of logits, or `probability` as they come.

    Raises:
        ConfigError: no name, an unknown `output`, weights of another network, or a channel that the output lacks.
        DataError: (when called) an output that does not lie on the image's grid.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        labels: Mapping[str, int],
        weights: str | Path | None = None,
        output: Literal["softmax", "sigmoid", "probability"] = "softmax",
    ) -> None:
        if not labels:
            raise ConfigError("regions.labels: name the network's channels or labels, such as heart: 3.")
        if output not in ("softmax", "sigmoid", "probability"):
            raise ConfigError(f"regions.output: choose softmax, sigmoid or probability, not '{output}'.")
        if weights is not None:
            if not isinstance(network, nn.Module):
                raise ConfigError("regions.weights: the network is not a torch.nn.Module; set regions.weights=null.")
            load_weights(network, weights)
        self.network = network.eval() if isinstance(network, nn.Module) else network
        self.labels, self.output = dict(labels), output
        self.names = list(labels)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> RegionMaps:
        image = batch["image"]
        found = self.network(image)
        chosen = list(self.labels.values())
        if not found.is_floating_point():
            found = found[:, None] if found.ndim < image.ndim else found
            self._check_grid(found, image)
            return torch.cat([found == label for label in chosen], 1).float()
        self._check_grid(found, image)
        missing = [name for name, channel in self.labels.items() if not 0 <= channel < found.shape[1]]
        if missing:
            raise ConfigError(
                f"regions.labels.{missing[0]}: the network has channels 0 to {found.shape[1] - 1},"
                f" not {self.labels[missing[0]]}."
            )
        if self.output == "softmax":
            found = found.softmax(1)
        elif self.output == "sigmoid":
            found = found.sigmoid()
        return found[:, chosen].float().clamp(0, 1)

    def _check_grid(self, found: Tensor, image: Tensor) -> None:
        if found.ndim != image.ndim or found.shape[2:] != image.shape[2:]:
            raise DataError(
                f"regions.network: its output {tuple(found.shape)} does not lie on the grid of images"
                f" {tuple(image.shape)}; wrap it so that it is resampled."
            )
