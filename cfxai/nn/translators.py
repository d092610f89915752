"""Generators by name, for both directions of a CycleGAN or, told the class, for all of a StarGAN."""

from collections.abc import Sequence
from math import prod

from cfxai.nn.resnet import ResNet
from cfxai.nn.translator import Translator, inputs, outputs
from cfxai.nn.unet import UNet


def unet(
    channels: int = 1,
    width: int = 32,
    classes: int = 0,
    output: str = "residual",
    merge: str = "concat",
    growth: str = "resize",
    kernel: int = 3,
    norm: str = "group",
    dims: int = 2,
) -> Translator:
    """A `UNet`; images of any size."""
    body = UNet(
        inputs(channels, classes), outputs(channels, output), width,
        merge=merge, growth=growth, kernel=kernel, norm=norm, dims=dims,
    )  # fmt: skip
    return Translator(body, stride=UNet.STRIDE, classes=classes, output=output)


def attention_unet(
    channels: int = 1,
    widths: Sequence[int] = (16, 32, 64, 128),
    classes: int = 0,
    output: str = "residual",
    dims: int = 2,
) -> Translator:
    """MONAI's Attention U-Net (Oktay et al. 2018, arXiv:1804.03999): sigmoid gates on positions of the skips."""
    from monai.networks.nets import AttentionUnet

    strides = [2] * (len(widths) - 1)
    body = AttentionUnet(dims, inputs(channels, classes), outputs(channels, output), list(widths), strides)
    return Translator(body, stride=prod(strides), classes=classes, output=output)


def resnet(
    channels: int = 1,
    width: int = 64,
    blocks: int = 9,
    classes: int = 0,
    output: str = "residual",
    dims: int = 2,
) -> Translator:
    """A `ResNet`; images of any size."""
    body = ResNet(inputs(channels, classes), outputs(channels, output), width, blocks=blocks, dims=dims)
    return Translator(body, stride=ResNet.STRIDE, classes=classes, output=output)
