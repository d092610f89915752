"""A U-Net of four halvings (Ronneberger et al. 2015, arXiv:1505.04597), in the forms that CycleGANs have used."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, cat, nn

from cfxai.errors import ConfigError
from cfxai.nn.aligned_conv import strided_channels_last
from cfxai.nn.blocks import CONV
from cfxai.nn.narrow_conv import NarrowConvTranspose2d
from cfxai.nn.pointwise_conv import PointwiseConv2d, channel_softmax
from cfxai.nn.same_conv import same_conv
from cfxai.nn.sample_norm import sample_norm

MERGES = ("concat", "gate")
GROWTHS = ("resize", "transposed")
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POINTWISE: dict[int, Callable[[int, int], nn.Module]] = {2: PointwiseConv2d, 3: partial(nn.Conv3d, kernel_size=1)}
FEW = 4  # channels, as of an image


class UNet(nn.Module):
    """[b inputs *spatial] -> [b outputs *spatial]; the sides must be divisible by `STRIDE`.

    The published generators are this network: GANterfactual's (Mertes et al. 2022, doi:10.3389/frai.2022.825565) with
    kernel 4 and norm `scalar`; CFE's (github.com/anindyamitra2002/CFE) with `gate`, `transposed` and norm `layer`.

    Args:
        inputs, outputs: channels. width: channels of the finest features; each halving doubles them.
        merge: how a skip connection joins: `concat`enated, or through a `ChannelGate`.
        growth: `resize` repeats pixels and convolves; `transposed` convolutions leave checkerboards (Odena et al. 2016,
            doi:10.23915/distill.00003).
        kernel: of the convolutions after `resize`.
        norm: see `sample_norm`.
        dims: 2 for images, 3 for volumes.

    Raises:
        ConfigError: an unknown merge or growth.
    """

    STRIDE = 16

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 32,
        *,
        merge: str = "concat",
        growth: str = "resize",
        kernel: int = 3,
        norm: str = "group",
        dims: int = 2,
    ) -> None:
        super().__init__()
        for key, value, known in (("merge", merge, MERGES), ("growth", growth, GROWTHS)):
            if value not in known:
                raise ConfigError(f"generator.{key}: choose one of {', '.join(known)}, not '{value}'.")
        finest, *_, coarsest = widths = [width, 2 * width, 4 * width, 8 * width]

        def grown(above: int, below: int) -> list[nn.Module]:
            if growth == "transposed":
                if dims == 2 and below <= FEW:
                    return [NarrowConvTranspose2d(above, below)]
                return [TRANSPOSED[dims](above, below, 4, stride=2, padding=1)]
            return [nn.Upsample(scale_factor=2, mode="nearest"), *same_conv(above, below, kernel, dims)]

        self.down = nn.ModuleList(
            nn.Sequential(
                CONV[dims](a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True), sample_norm(norm, b, dims)
            )
            for a, b in zip((inputs, *widths[:-1]), widths, strict=True)
        )
        self.merges = nn.ModuleList(
            ChannelGate(skip, dims) if merge == "gate" else Concatenation() for skip in widths[:-1]
        )
        self.up = nn.ModuleList(
            nn.Sequential(*grown(above, skip), nn.ReLU(inplace=True), sample_norm(norm, skip, dims))
            for above, skip in zip((coarsest, coarsest, coarsest // 2), widths[-2::-1], strict=True)
        )
        self.last = nn.Sequential(*grown(2 * finest, outputs))

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b d *spatial"]:
        skips, x = [], strided_channels_last(x) if x.ndim == 4 else x
        for halve in self.down:
            skips.append(x := halve(x))
        skips.pop()
        for grow, merge in zip(self.up, reversed(self.merges), strict=True):
            x = merge(skips.pop(), grow(x))
        return self.last(x)


class Concatenation(nn.Module):
    """Skip and decoder side by side: two [b c *spatial] -> [b 2c *spatial]."""

    def forward(
        self, skip: Float[Tensor, "b c *spatial"], decoded: Float[Tensor, "b c *spatial"]
    ) -> Float[Tensor, "b d *spatial"]:
        return cat([decoded, skip], 1)


class ChannelGate(nn.Module):
    """The skip, its channels weighed by a softmax over channels of the decoder: two [b c *spatial] -> [b 2c *spatial].

    CFE's attention gate. Oktay's (`attention_unet`) weighs positions by a sigmoid instead, and concatenates.
    """

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.gate, self.value = (POINTWISE[dims](channels, 2 * channels) for _ in range(2))

    def forward(
        self, skip: Float[Tensor, "b c *spatial"], decoded: Float[Tensor, "b c *spatial"]
    ) -> Float[Tensor, "b d *spatial"]:
        return self.value(skip) * channel_softmax(self.gate(decoded))
