"""An image to an image of another class, by whatever network computes features of the same size."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, cat, nn, tanh

from cfxai.errors import ConfigError
from cfxai.nn.generators import add_bounded
from cfxai.protocols import Image, Labels

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNELS_BESIDE = {"image": 0, "residual": 0, "masked": 1}


class Translator(nn.Module):
    """A generator: (image, class) -> image, both in [-1, 1].

    Args:
        body: [b i *spatial] -> [b o *spatial], with i and o as `inputs` and `outputs` give them; its last convolution
            is registered last.
        stride: what the body's sides must be divisible by; others are padded by their border, and cropped again.
        classes: that the generator is told by, one channel each; 0 = it knows one direction only.
        output: of the body's output h, `image`: tanh h; `residual`: `add_bounded(x, tanh h)`, which starts at exactly
            x; `masked`: `add_bounded(x, m tanh h)` with a soft mask m = sigmoid of one further channel, for all
            channels the same.

    Raises:
        ConfigError: an unknown output.
    """

    def __init__(self, body: nn.Module, *, stride: int, classes: int = 0, output: str = "residual") -> None:
        super().__init__()
        _check(output)
        self.body, self.stride, self.classes, self.output = body, stride, classes, output
        if output != "image":
            last = [part for part in body.modules() if isinstance(part, CONVOLUTIONS)][-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, image: Image, condition: Labels | None = None) -> Image:
        entering = image
        if self.classes:
            assert condition is not None
            told = F.one_hot(condition, self.classes).to(image).view(*condition.shape, -1, *[1] * (image.ndim - 2))
            entering = cat([image, told.expand(-1, -1, *image.shape[2:])], 1)
        return self._rendered(image, self._computed(entering))

    def _computed(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b d *spatial"]:
        sides = x.shape[2:]
        beyond = [-side % self.stride for side in sides]
        if not any(beyond):
            return self.body(x)
        padding = [n for extra in reversed(beyond) for n in (extra // 2, extra - extra // 2)]
        h = self.body(F.pad(x, padding, mode="replicate"))
        for axis, (side, extra) in enumerate(zip(sides, beyond, strict=True), start=2):
            h = h.narrow(axis, extra // 2, side)
        return h

    def _rendered(self, image: Image, h: Float[Tensor, "b d *spatial"]) -> Image:
        match self.output:
            case "residual":
                return add_bounded(image, tanh(h))
            case "masked":
                return add_bounded(image, h[:, -1:].sigmoid() * tanh(h[:, :-1]))
        return tanh(h)


def inputs(channels: int, classes: int) -> int:
    """Channels that enter a `Translator`'s body."""
    return channels + classes


def outputs(channels: int, output: str) -> int:
    """Channels that leave a `Translator`'s body.

    Raises:
        ConfigError: an unknown output.
    """
    _check(output)
    return channels + CHANNELS_BESIDE[output]


def _check(output: str) -> None:
    if output not in CHANNELS_BESIDE:
        raise ConfigError(f"generator.output: choose one of {', '.join(CHANNELS_BESIDE)}, not '{output}'.")
