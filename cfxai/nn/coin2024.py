"""COIN's published networks: a residual generator, a projection discriminator (Shvetsov et al. 2024, arXiv:2404.12832).

They follow Singla et al. (2021, arXiv:2101.04230), with skip connections and a generator that perturbs its input. At
`width=1` they are the paper's, for 256x256 images; `width` scales every number of channels but the encoder stem's.
`tests/test_coin2024.py` holds them, to rounding, against recorded training steps of the published code. They
compute the same in less time and memory (`resampled_conv`, `norm_relu_conv`): `benchmarks/coin_step.py` measures it.
"""

from collections.abc import Sequence
from math import sqrt

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, cat, nn, tanh
from torch.nn.utils.parametrize import register_parametrization

from cfxai.errors import ConfigError, DataError
from cfxai.nn.aligned_conv import AlignedConv2d, strided_channels_last
from cfxai.nn.norm_relu_conv import norm_relu_conv
from cfxai.nn.resampled_conv import PooledConv2d, combines, grown_kernel
from cfxai.nn.spectral_norm import OneStepSpectralNorm, spectrally_normalised
from cfxai.protocols import Image, Labels

Features = Float[Tensor, "b c h w"]

CHANNELS = (64, 128, 256, 512, 1024)  # of the five resolutions, finest first
STEM = 64

UPSAMPLES = ("nearest", "bilinear")
FUSIONS = ("skip_add_tanh", "skip_add_l2_tanh", "skip_stack_3x3conv_tanh", "skip_tanh_avg", "skip_tanh_clamp", "tanh")


class Generator(nn.Module):
    """(image, condition) -> counterfactual, [b c h w] in [-1, 1]: a `fusion` of the image and the decoder's output h.

    Args:
        channels: of the image.
        width: scales the numbers of channels; 1 is the paper's size.
        classes: number of conditions.
        skips: which decoder blocks also see the encoder's features of their resolution; 1 the coarsest, 4 the finest.
        upsample: `nearest`, or `bilinear` with aligned corners (the paper's on real tumours).
        fusion: the image x and h, under the published names: `skip_add_tanh` tanh(h + x); `skip_add_l2_tanh`
            tanh(h / max(1, ||h||) + x), with the norm over each channel; `skip_stack_3x3conv_tanh` tanh(conv [h, x]);
            `skip_tanh_avg` (x + tanh h) / 2; `skip_tanh_clamp` x + tanh h, clamped; `tanh` tanh(h), without the image.
        spectral: spectral norm on the 1x1 convolutions (the paper's synthetic experiments).

    Raises:
        ConfigError: an unknown skip, up-sampling or fusion.
        DataError: the sides of an image are not divisible by 32.
    """

    def __init__(
        self,
        channels: int = 1,
        width: float = 1.0,
        classes: int = 2,
        skips: Sequence[int] = (1, 2, 3, 4),
        upsample: str = "nearest",
        fusion: str = "skip_add_tanh",
        spectral: bool = True,
    ) -> None:
        super().__init__()
        if not set(skips) <= {1, 2, 3, 4}:
            raise ConfigError(f"generator.skips: choose from 1, 2, 3 and 4, not {list(skips)}.")
        for key, value, known in (("upsample", upsample, UPSAMPLES), ("fusion", fusion, FUSIONS)):
            if value not in known:
                raise ConfigError(f"generator.{key}: choose one of {', '.join(known)}, not '{value}'.")
        widths = _scaled(width)
        below = widths[::-1]  # the encoder's features and the decoder's outputs, coarsest first
        first = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        nn.init.xavier_normal_(first.weight)
        self.stem = nn.Sequential(first, nn.ReLU(inplace=True), nn.BatchNorm2d(STEM))
        self.encoder = nn.ModuleList(
            EncoderBlock(a, b, spectral) for a, b in zip((STEM, *widths[:-1]), widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(below[max(0, i - 1)] + (below[i] if i in skips else 0), below[i], classes, upsample, spectral)
            for i in range(len(below))
        )
        self.head = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU(), _conv(widths[0], channels, 3, bias=True))
        self.skips, self.fusion = frozenset(skips), fusion
        if fusion == "skip_stack_3x3conv_tanh":
            self.fuse = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, image: Image, condition: Labels) -> Image:
        return self.under(image, [condition])[0]

    def under(self, image: Image, conditions: Sequence[Labels]) -> list[Image]:
        """The counterfactuals under several conditions, of an image that is encoded once."""
        if any(side % 32 for side in image.shape[2:]):
            raise DataError(f"data.size: the published generator needs sides divisible by 32, not {image.shape[2:]}.")
        features = [self.stem(strided_channels_last(image))]
        for block in self.encoder:
            features.append(block(features[-1]))
        return [self._decoded(image, features, condition) for condition in conditions]

    def _decoded(self, image: Image, features: list[Tensor], condition: Labels) -> Image:
        h = features[-1]
        for i, block in enumerate(self.decoder):
            h = block(cat([h, features[-1 - i]], 1) if i in self.skips else h, condition)
        norm, _, last = self.head
        return self._fused(_norm_relu_conv(h, norm, last), image)

    def _fused(self, h: Image, image: Image) -> Image:
        match self.fusion:
            case "skip_add_tanh":
                return tanh(h + image)
            case "skip_add_l2_tanh":
                return tanh(h / h.norm(dim=(2, 3), keepdim=True).clamp(min=1) + image)
            case "skip_stack_3x3conv_tanh":
                return tanh(self.fuse(cat([h, image], 1)))
            case "skip_tanh_avg":
                return (image + tanh(h)) / 2
            case "skip_tanh_clamp":
                return (image + tanh(h)).clamp(-1, 1)
        return tanh(h)


class Discriminator(nn.Module):
    """(image, condition) -> one logit an image; projects the condition (Miyato & Koyama 2018, arXiv:1802.05637).

    Args:
        channels: of the image.
        width: scales the numbers of channels; 1 is the paper's size.
        classes: number of conditions.
        blocks: 6, or 5 as on real tumours; blocks after the fifth keep the resolution.
    """

    def __init__(self, channels: int = 1, width: float = 1.0, classes: int = 2, blocks: int = 6) -> None:
        super().__init__()
        widths = _scaled(width)
        widths = widths[:blocks] + widths[-1:] * (blocks - len(widths))
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(a, b, first=i == 0, halve=i < len(CHANNELS))
                for i, (a, b) in enumerate(zip((channels, *widths[:-1]), widths, strict=True))
            )
        )
        self.verdict = nn.Linear(widths[-1], 1)
        self.embedding = nn.Embedding(classes, widths[-1])
        nn.init.xavier_uniform_(self.verdict.weight)
        nn.init.xavier_uniform_(self.embedding.weight)
        register_parametrization(self.verdict, "weight", OneStepSpectralNorm(1), unsafe=True)

    def forward(self, image: Image, condition: Labels) -> Float[Tensor, " b"]:
        return self.each([(image, condition)])[0]

    def each(self, batches: Sequence[tuple[Float[Tensor, "_ c h w"], Int[Tensor, " _"]]]) -> list[Float[Tensor, " _"]]:
        """The logits of several batches as of one call after another, each with its own singular values.

        Weights, in full width more than the features, are read once, and so are their gradients written.
        """
        counts = [len(image) for image, _ in batches]
        h = strided_channels_last(cat([image for image, _ in batches]))
        for block in self.blocks:
            h = block(h, counts)
        pooled = F.relu(h).sum((2, 3)).split(counts)
        return [
            self.verdict(h)[:, 0] + (self.embedding(condition) * h).sum(1)
            for h, (_, condition) in zip(pooled, batches, strict=True)
        ]


class EncoderBlock(nn.Module):
    """Half the resolution: [b c h w] -> [b d h/2 w/2]."""

    def __init__(self, inputs: int, outputs: int, spectral: bool) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), _conv(inputs, outputs, 1, spectral=spectral))
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.AvgPool2d(2),
            _conv(inputs, outputs, 3, gain=sqrt(2)),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv(outputs, outputs, 3, gain=sqrt(2)),
        )

    def forward(self, x: Features) -> Float[Tensor, "b d h2 w2"]:
        norm1, _, pool, conv1, norm2, _, conv2 = self.body
        h = _norm_relu_conv(_norm_relu_conv(x, norm1, conv1, pool), norm2, conv2)
        return h.add_(self.shortcut(x))


class DecoderBlock(nn.Module):
    """Twice the resolution, under a condition: [b c h w] -> [b d 2h 2w]."""

    def __init__(self, inputs: int, outputs: int, classes: int, upsample: str, spectral: bool) -> None:
        super().__init__()
        self.grow = nn.Upsample(scale_factor=2, mode=upsample, align_corners=True if upsample == "bilinear" else None)
        self.shortcut = _conv(inputs, outputs, 1, spectral=spectral)
        self.norm1, self.norm2 = ConditionalBatchNorm(inputs, classes), ConditionalBatchNorm(outputs, classes)
        self.conv1, self.conv2 = _conv(inputs, outputs, 3, gain=sqrt(2)), _conv(outputs, outputs, 3, gain=sqrt(2))

    def forward(self, x: Features, condition: Labels) -> Float[Tensor, "b d h2 w2"]:
        repeats = self.grow.mode == "nearest" and combines(x)
        kernel, resample = (grown_kernel(self.conv1.weight), None) if repeats else (self.conv1.weight, self.grow)
        h = norm_relu_conv(
            x, self.norm1.norm, *self.norm1.line(condition), kernel, resample=resample, transposed=repeats
        )
        h = norm_relu_conv(h, self.norm2.norm, *self.norm2.line(condition), self.conv2.weight)
        # A 1x1 convolution commutes with growing; published the other way round, at four times the cost.
        return h.add_(self.grow(self.shortcut(x)))


class DiscriminatorBlock(nn.Module):
    """Half the resolution, or the same: [b c h w] -> [b d h/2 w/2] or [b c h w]; the `first` takes the bare image."""

    def __init__(self, inputs: int, outputs: int, *, first: bool, halve: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.shortcut = _conv(inputs, outputs, 1, bias=True, spectral=True) if halve else nn.Identity()
        last = PooledConv2d(outputs, outputs) if halve else AlignedConv2d(outputs, outputs, 3, padding=1)
        self.body = nn.Sequential(
            nn.Identity() if first else nn.ReLU(),
            _conv(inputs, outputs, 3, gain=sqrt(2), bias=True, spectral=True),
            nn.ReLU(inplace=True),
            _initialised(last, gain=sqrt(2), spectral=True),
        )

    def forward(self, x: Features, counts: Sequence[int] | None = None) -> Float[Tensor, "b d h2 w2"]:
        """`counts`: of the samples in each batch that x consists of; null = it is one."""
        counts = counts or [len(x)]
        start, first, active, last = self.body
        h = spectrally_normalised(last, active(spectrally_normalised(first, start(x), counts)), counts)
        # Pooling first, for the same reason; published so in the first block only.
        shortcut = self.pool(x)
        return h.add_(
            shortcut
            if isinstance(self.shortcut, nn.Identity)
            else spectrally_normalised(self.shortcut, shortcut, counts)
        )


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift belong to the condition (de Vries et al. 2017, arXiv:1707.00683)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.embedding = nn.Embedding(classes, 2 * channels)
        nn.init.normal_(self.embedding.weight[:, :channels], 1.0, 0.02)
        nn.init.zeros_(self.embedding.weight[:, channels:])

    def line(self, condition: Labels) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """The scale and the shift of each sample."""
        scale, shift = self.embedding(condition).chunk(2, 1)
        return scale, shift

    def forward(self, x: Features, condition: Labels) -> Features:
        scale, shift = self.line(condition)
        return scale[:, :, None, None] * self.norm(x) + shift[:, :, None, None]


def _conv(
    inputs: int, outputs: int, size: int, *, gain: float = 1.0, bias: bool = False, spectral: bool = False
) -> nn.Conv2d:
    return _initialised(
        AlignedConv2d(inputs, outputs, size, padding=size // 2, bias=bias), gain=gain, spectral=spectral
    )


def _initialised(conv: nn.Conv2d, *, gain: float, spectral: bool) -> nn.Conv2d:
    nn.init.xavier_uniform_(conv.weight, gain)
    if spectral:
        register_parametrization(conv, "weight", OneStepSpectralNorm(conv.out_channels), unsafe=True)
    return conv


def _norm_relu_conv(
    x: Features, norm: nn.Module, conv: nn.Module, pool: nn.Module | None = None
) -> Float[Tensor, "b d h2 w2"]:
    """`norm_relu_conv` of layers as they are."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    h = norm_relu_conv(x, norm, norm.weight[None], norm.bias[None], conv.weight, resample=pool)
    return h if conv.bias is None else h + conv.bias[:, None, None]


def _scaled(width: float) -> tuple[int, ...]:
    return tuple(max(8, int(channels * width)) for channels in CHANNELS)
