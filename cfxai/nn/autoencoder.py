"""The two networks of a diffusion autoencoder, for images of any size."""

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.contraction import Plan
from cfxai.nn.diffusion_unet import DiffusionUNet
from cfxai.nn.semantic_encoder import SemanticEncoder
from cfxai.protocols import Image


class Autoencoder(nn.Module):
    """`encode`: images [b c *spatial] to z [b latent]. Called: (noisy images, times [b], z) to what it predicts.

    Sides that the networks do not divide are padded by reflection, and cropped again. Preechakul et al. 2022,
    arXiv:2111.15640; `conf/autoencoder` has the published sizes.

    Args:
        channels, dims, patch, width, blocks, attention, heads, groups, checkpoint: see `cfxai.nn.contraction.Plan`.
        encoder_patch: that of the encoder, where it shall see finer or coarser than the U-Net; null = `patch`.
        multipliers: channels of each level of the U-Net in units of `width`, finest first.
        encoder_multipliers: the same of the encoder.
        latent: length of z.
        embedding: length of the time's embedding.
        dropout: in the U-Net.

    Raises:
        ConfigError: sizes that make no network; later, images of other channels or dimensions.
    """

    standard_layout = True
    """Of its weights in memory: its normalisations work on that, and channels-last trains up to a fifth slower."""

    def __init__(
        self,
        channels: int = 1,
        *,
        dims: int = 2,
        patch: int = 1,
        encoder_patch: int | None = None,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        encoder_multipliers: Sequence[int] = (1, 2, 4, 8, 8),
        blocks: int = 2,
        attention: Sequence[int] = (2,),
        heads: int = 1,
        groups: int = 32,
        latent: int = 512,
        embedding: int = 512,
        dropout: float = 0.1,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if latent < 1 or embedding < 1:
            raise ConfigError(f"autoencoder: latent and embedding must be 1 or more, got {latent} and {embedding}.")
        levels = max(len(multipliers), len(encoder_multipliers))
        if not all(0 <= level < levels for level in attention):
            raise ConfigError(f"autoencoder.attention: levels are 0 to {levels - 1}, got {list(attention)}.")
        plan = Plan(channels, dims, patch, width, blocks, tuple(attention), heads, groups, checkpoint)
        self.channels, self.dims, self.latent = channels, dims, latent
        seen = plan if encoder_patch is None else replace(plan, patch=encoder_patch)
        self.encoder = SemanticEncoder(seen, encoder_multipliers, latent=latent)
        self.unet = DiffusionUNet(plan, multipliers, latent=latent, embedding=embedding, dropout=dropout)
        self.strides = seen.stride(encoder_multipliers), plan.stride(multipliers)

    def encode(self, image: Image) -> Float[Tensor, "b z"]:
        if (there := image.shape[1]) != self.channels:
            raise ConfigError(
                f"autoencoder.channels: is {self.channels}, but images have {there}; set autoencoder.channels={there}."
            )
        return self.encoder(padded(image, self.strides[0]))

    def forward(self, noisy: Image, time: Float[Tensor, " b"], z: Float[Tensor, "b z"]) -> Image:
        said = self.unet(padded(noisy, self.strides[1]), time, z)
        return said[(..., *(slice(side) for side in noisy.shape[2:]))]


def padded(image: Image, stride: int) -> Float[Tensor, "b c *padded"]:
    """The image, its sides reflected at their ends up to multiples of `stride`; short ones repeat their last pixel."""
    missing = [-side % stride for side in image.shape[2:]]
    if not any(missing):
        return image
    ends = [end for more in reversed(missing) for end in (0, more)]
    short = any(more >= side for more, side in zip(missing, image.shape[2:], strict=True))
    return F.pad(image, ends, mode="replicate" if short else "reflect")
