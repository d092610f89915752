"""Discriminators: how real does an image look, as logits."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cfxai.nn.blocks import CONV, SpaceToDepth
from cfxai.protocols import Image, Labels


class PatchDiscriminator(nn.Module):
    """One logit per patch (Isola et al. 2017) under spectral norm (Miyato et al. 2018), behind a space-to-depth stem.

    The spectral norm's vectors move in training mode only. The condition is not used.
    """

    def __init__(self, channels: int = 1, widths: Sequence[int] = (32, 64, 96), dims: int = 2) -> None:
        super().__init__()
        conv = CONV[dims]
        layers: list[nn.Module] = [
            SpaceToDepth(2, dims),
            spectral_norm(conv(channels * 2**dims, widths[0], 3, padding=1)),
            nn.LeakyReLU(0.2),
        ]
        for a, b in pairwise(widths):
            layers += [spectral_norm(conv(a, b, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(conv(widths[-1], 1, 3, padding=1)))

    def forward(self, image: Image, condition: Labels | None = None) -> Float[Tensor, "b *patches"]:
        return self.layers(image)[:, 0]
