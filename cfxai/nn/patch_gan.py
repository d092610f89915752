"""CycleGAN's discriminator, as published and with options."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cfxai.errors import DataError
from cfxai.nn.aligned_conv import strided_channels_last
from cfxai.nn.blocks import CONV
from cfxai.nn.same_conv import same_conv
from cfxai.nn.sample_norm import sample_norm
from cfxai.protocols import Image, Labels


class PatchGAN(nn.Module):
    """One logit per patch: convolutions of stride 2, then one without (Isola et al. 2017, arXiv:1611.07004).

    Args:
        channels: of the image.
        width: channels of the first layer; each layer doubles them. layers: of stride 2.
        norm: see `sample_norm`. first_norm: whether the first layer has it too.
        spectral: spectral norm on every convolution (Miyato et al. 2018, arXiv:1802.05957).
        same: the last convolution keeps the sides, where CycleGAN's shortens them by one.
        classes: 1, or one verdict for each class on the same features, of which the condition picks one (StarGAN v2,
            Choi et al. 2020, arXiv:1912.01865).
        dims: 2 for images, 3 for volumes.

    Raises:
        DataError: images too small for one patch.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        layers: int = 4,
        norm: str = "none",
        first_norm: bool = False,
        spectral: bool = False,
        same: bool = True,
        classes: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        conv = CONV[dims]
        widths = [width * 2**i for i in range(layers)]
        parts: list[nn.Module] = []
        for i, (a, b) in enumerate(zip((channels, *widths[:-1]), widths, strict=True)):
            parts += [conv(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            parts += [sample_norm(norm, b, dims)] if i or first_norm else []
        parts += same_conv(widths[-1], classes, 4, dims) if same else [conv(widths[-1], classes, 4, padding=1)]
        self.parts = nn.Sequential(*(spectral_norm(p) if spectral and isinstance(p, conv) else p for p in parts))
        self.smallest, self.classes = 2**layers * (1 if same else 2), classes

    def forward(self, image: Image, condition: Labels | None = None) -> Float[Tensor, "b *patches"]:
        if min(image.shape[2:]) < self.smallest:
            raise DataError(
                f"data.size: this discriminator needs at least {self.smallest} pixels; set fewer discriminator.layers."
            )
        verdicts = self.parts(strided_channels_last(image) if image.ndim == 4 else image)
        if self.classes == 1:
            return verdicts[:, 0]
        assert condition is not None
        return verdicts[range(len(verdicts)), condition]
