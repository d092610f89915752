"""Building blocks shared by our networks, for images and volumes alike (`dims` = 2 or 3)."""

from jaxtyping import Float
from torch import Tensor, nn

from cfxai.errors import ConfigError, DataError

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class SpaceToDepth(nn.Module):
    """Folds each `factor`-wide cell into channels: the cheap stem that makes small machines fast.

    [b c *spatial] -> [b c*factor^dims *spatial/factor]. `DepthToSpace` undoes it.

    Raises:
        ConfigError: images of other than `dims` spatial axes.
        DataError: sides that are not divisible by `factor`.
    """

    def __init__(self, factor: int = 2, dims: int = 2) -> None:
        super().__init__()
        self.factor, self.dims = factor, dims

    def forward(self, image: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b d *folded"]:
        if image.ndim - 2 != self.dims:
            raise ConfigError(
                f"dims: a network for {self.dims}-D images was given {image.ndim - 2}-D ones; volumes need dims=3 and"
                " data.plane=volume, slices dims=2 (space=volumes or space=slices sets all)."
            )
        require_divisible(image, self.factor)
        f, d = self.factor, self.dims
        b, c, *sides = image.shape
        cells = image.reshape(b, c, *(n for side in sides for n in (side // f, f)))  # [b c s1/f f s2/f f ..]
        inner = [3 + 2 * i for i in range(d)]
        outer = [2 + 2 * i for i in range(d)]
        return cells.permute(0, 1, *inner, *outer).reshape(b, c * f**d, *(side // f for side in sides))


class DepthToSpace(nn.Module):
    """The inverse of `SpaceToDepth`: [b c*factor^dims *spatial] -> [b c *spatial*factor]."""

    def __init__(self, factor: int = 2, dims: int = 2) -> None:
        super().__init__()
        self.factor, self.dims = factor, dims

    def forward(self, image: Float[Tensor, "b d *folded"]) -> Float[Tensor, "b c *spatial"]:
        f, d = self.factor, self.dims
        b, c, *sides = image.shape
        cells = image.reshape(b, c // f**d, *[f] * d, *sides)
        order = [axis for i in range(d) for axis in (2 + d + i, 2 + i)]
        return cells.permute(0, 1, *order).reshape(b, c // f**d, *(side * f for side in sides))


class ResidualBlock(nn.Module):
    """norm - ReLU - conv, twice, plus a shortcut (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, inputs: int, outputs: int, *, dims: int = 2, norm: str = "batch") -> None:
        super().__init__()
        conv = CONV[dims]
        self.body = nn.Sequential(
            normalisation(norm, inputs, dims),
            nn.ReLU(),
            conv(inputs, outputs, 3, padding=1, bias=False),
            normalisation(norm, outputs, dims),
            nn.ReLU(),
            conv(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b d *spatial"]:
        return self.shortcut(x) + self.body(x)


def require_divisible(image: Float[Tensor, "b c *spatial"], factor: int) -> None:
    """Raises DataError unless every side is a multiple of `factor`, as a network that halves them needs."""
    if any(side % factor for side in image.shape[2:]):
        sides = " x ".join(map(str, image.shape[2:]))
        raise DataError(f"data.size: this network needs sides divisible by {factor}, not {sides} pixels.")


def normalisation(kind: str, channels: int, dims: int) -> nn.Module:
    """`batch` normalisation, or `group` normalisation with about eight channels a group."""
    if kind == "batch":
        return nn.BatchNorm2d(channels) if dims == 2 else nn.BatchNorm3d(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    raise ValueError(f"norm must be 'batch' or 'group', not {kind!r}.")
