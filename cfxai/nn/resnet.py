"""The residual generator of style transfer and of CycleGAN."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from cfxai.nn.blocks import CONV
from cfxai.nn.sample_norm import sample_norm


class ResNet(nn.Module):
    """[b inputs *spatial] -> [b outputs *spatial]; the sides must be divisible by `STRIDE`.

    Two halvings, `blocks` residual blocks and two doublings between 7x7 convolutions, with instance normalisation and
    reflected borders (Johnson et al. 2016, arXiv:1603.08155; Zhu et al. 2017, arXiv:1703.10593, with 9 blocks). It
    grows by repeating pixels and convolving, where those use transposed convolutions, which leave checkerboards.

    Args:
        inputs, outputs: channels. width: of the finest features; each halving doubles them.
        blocks: residual ones.
        dims: 2 for images, 3 for volumes.
    """

    STRIDE = 4

    def __init__(self, inputs: int, outputs: int, width: int = 64, *, blocks: int = 9, dims: int = 2) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)

        def normal(a: int, b: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return [_conv(a, b, kernel, dims, stride), sample_norm("instance", b, dims), nn.ReLU()]

        layers = normal(inputs, width, 7)
        for a, b in pairwise(widths):
            layers += normal(a, b, 3, stride=2)
        layers += [Block(widths[-1], dims) for _ in range(blocks)]
        for a, b in pairwise(widths[::-1]):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), *normal(a, b, 3)]
        self.layers = nn.Sequential(*layers, _conv(width, outputs, 7, dims))

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b d *spatial"]:
        return self.layers(x)


class Block(nn.Module):
    """x + norm conv relu norm conv x: [b c *spatial] of the same shape."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels, 3, dims),
            sample_norm("instance", channels, dims),
            nn.ReLU(),
            _conv(channels, channels, 3, dims),
            sample_norm("instance", channels, dims),
        )

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        return x + self.body(x)


def _conv(a: int, b: int, kernel: int, dims: int, stride: int = 1) -> nn.Module:
    return CONV[dims](a, b, kernel, stride=stride, padding=kernel // 2, padding_mode="reflect")
