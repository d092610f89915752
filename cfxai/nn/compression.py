"""Images to a coarser grid of codes and back, so that diffusion fits volumes of clinical size into memory."""

from collections.abc import Sequence
from math import gcd

import torch
from jaxtyping import Float
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.blocks import require_divisible
from cfxai.nn.weights import load_weights
from cfxai.protocols import Image

Codes = Float[Tensor, "b k *coarse"]


class Compression(nn.Module):
    """MONAI's AutoencoderKL, its codes scaled to unit variance (Rombach et al. 2022, arXiv:2112.10752).

    [b channels *spatial] -> [b codes *spatial / 2^(levels - 1)]. The diffusion's networks then have `codes` channels.

    Args:
        channels: of the image. codes: of its code.
        dims: 2 for images, 3 for volumes.
        widths: channels of each level, finest first.
        kl: weight of the codes' divergence from a standard normal, against the mean absolute error of the image.
        weights: file of a trained one, such as a run's `weights/compression.safetensors`; null = it is trained.

    Raises:
        ConfigError: fewer than two levels, or weights that do not fit.
        DataError: images whose sides are not multiples of 2^(levels - 1).
    """

    spread: Tensor

    def __init__(
        self,
        channels: int = 1,
        codes: int = 3,
        *,
        dims: int = 3,
        widths: Sequence[int] = (32, 64, 64),
        kl: float = 1e-6,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ConfigError(f"method.compression.widths: needs two or more levels, got {list(widths)}.")
        self.network = AutoencoderKL(
            dims,
            channels,
            channels,
            num_res_blocks=1,
            channels=widths,
            attention_levels=[False] * len(widths),
            latent_channels=codes,
            norm_num_groups=gcd(32, *widths),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        self.kl, self.stride, self.trained = kl, 2 ** (len(widths) - 1), weights is not None
        self.register_buffer("spread", torch.ones(()))
        if weights is not None:
            load_weights(self, weights)

    def encode(self, image: Image) -> Codes:
        require_divisible(image, self.stride)
        return self.network.encode(image)[0] / self.spread

    def decode(self, code: Codes) -> Image:
        return self.network.decode(code * self.spread)

    def losses(self, image: Image) -> dict[str, Tensor]:
        """Its own terms in training, which also measures the codes' standard deviation.

        l1: mean |x - decode(c)| with c drawn from N(mean, deviation²); kl: mean (m² + s² - 1) / 2 - log s.
        """
        require_divisible(image, self.stride)
        mean, deviation = self.network.encode(image)
        again = self.network.decode(mean + deviation * torch.randn_like(deviation))
        mean, deviation = mean.float(), deviation.float()
        with torch.no_grad():
            self.spread.lerp_(mean.std(), 0.05)
        divergence = ((mean.square() + deviation.square() - 1) / 2 - deviation.log()).mean()
        return {"compress_l1": (image - again).abs().float().mean(), "compress_kl": self.kl * divergence}
