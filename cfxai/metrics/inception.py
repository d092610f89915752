"""Inception features for FID, from a file that the user provides."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3

from cfxai.errors import ConfigError
from cfxai.nn.freeze import frozen
from cfxai.nn.weights import load_weights
from cfxai.protocols import Image


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of torchvision's Inception v3, images [b c h w] in [-1, 1], c = 1 or 3.

    Published FIDs use the original TensorFlow weights and resizing: values from torchvision's weights are comparable
    with each other, not with those.

    Args:
        weights: torchvision's `inception_v3` state as `.safetensors` or `.pth`; nothing is ever downloaded.

    Raises:
        ConfigError: no such file, other weights, or images that are not 2-D with one or three channels.
    """

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise ConfigError(
                f"{weights}: no such file; put torchvision's inception_v3 weights there, none are downloaded."
            )
        self.network = inception_v3(weights=None, aux_logits=True, init_weights=False)
        load_weights(self.network, weights)
        self.network.fc = nn.Identity()

    @torch.no_grad()
    def forward(self, image: Image) -> Tensor:
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ConfigError(f"Inception needs images of 1 or 3 channels, not of shape {tuple(image.shape[1:])}.")
        rgb = image.expand(-1, 3, -1, -1)
        with frozen(self.network):
            return self.network(F.interpolate(rgb, size=(299, 299), mode="bilinear", antialias=True))
