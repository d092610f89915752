"""Normalisation by the statistics of each sample alone, so that a batch's other images do not matter."""

from jaxtyping import Float
from torch import Tensor, nn, ones, zeros

from cfxai.errors import ConfigError

SAMPLE_NORMS = ("group", "eight", "instance", "layer", "scalar", "none")


def sample_norm(kind: str, channels: int, dims: int = 2) -> nn.Module:
    """`group`: about eight channels a group; `eight`: eight groups; `instance`: each channel; `layer`: all channels,
    with a scale and shift for each; `scalar`: with one for all; `none`: no normalisation.

    Raises:
        ConfigError: another kind.
    """
    match kind:
        case "group":
            return nn.GroupNorm(max(1, channels // 8), channels)
        case "eight":
            return nn.GroupNorm(8, channels)
        case "instance":
            return nn.InstanceNorm2d(channels) if dims == 2 else nn.InstanceNorm3d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "scalar":
            return ScalarNorm()
        case "none":
            return nn.Identity()
    raise ConfigError(f"norm: choose one of {', '.join(SAMPLE_NORMS)}, not '{kind}'.")


class ScalarNorm(nn.Module):
    """gain (x - mean) / (std + 1e-3) + offset, with the statistics of a whole sample and one gain and offset.

    keras_contrib's InstanceNormalization does this by default (`axis=None`), and so does what was published with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(ones(1)), nn.Parameter(zeros(1))

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        axes = tuple(range(1, x.ndim))
        std = x.std(axes, correction=0, keepdim=True)
        return self.gain * (x - x.mean(axes, keepdim=True)) / (std + 1e-3) + self.offset
