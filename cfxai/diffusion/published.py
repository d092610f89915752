"""The samplers of the diffusion autoencoder's published code, for results that are to be compared with it."""

from cfxai.diffusion.denoiser import Denoiser
from cfxai.errors import ConfigError
from cfxai.protocols import Image


class PublishedSampling:
    """Every k-th time from 0, with x_0 clipped to [-1, 1], as in github.com/phizaz/diffae; not exactly invertible.

    The image counts as x at time 0, though it has no noise yet. The last step of `invert` goes on to pure noise, that
    of `render` to no noise at all, so that they do not share a grid even where they have as many steps.

    Args:
        inversion_steps, render_steps: evaluations of the network; as many times as 0, k, 2 k, ... can be.

    Raises:
        ConfigError: (when used) a number of times that no k gives.
    """

    until = 1.0

    def __init__(self, inversion_steps: int = 250, render_steps: int = 100) -> None:
        self.inversion_steps, self.render_steps = inversion_steps, render_steps

    def invert(self, denoise: Denoiser, image: Image) -> Image:
        """x_T of images [b c *spatial]: the noise seen in them at the last time."""
        schedule, x = denoise.schedule, image
        times = strided(schedule.length, self.inversion_steps, "inversion_steps")
        for time, level in zip(times, [*map(schedule.level, times[1:]), (0.0, 1.0)], strict=True):
            x = stepped(denoise, x, time, level)
        return x

    def render(self, denoise: Denoiser, noise: Image) -> Image:
        """The images [b c *spatial] that x_T becomes."""
        schedule, x = denoise.schedule, noise
        times = strided(schedule.length, self.render_steps, "render_steps")
        for time, level in reversed(list(zip(times, [(1.0, 0.0), *map(schedule.level, times[:-1])], strict=True))):
            x = stepped(denoise, x, time, level)
        return x


def stepped(denoise: Denoiser, x: Image, time: float, to: tuple[float, float]) -> Image:
    """One DDIM step from `time` to the level (alpha, sigma), in either direction."""
    clean = denoise(x, time)[0].clamp(-1, 1)
    alpha, sigma = denoise.schedule.level(time)
    return to[0] * clean + to[1] * (x - alpha * clean) / sigma


def strided(length: int, steps: int, key: str) -> list[int]:
    """`steps` whole times 0, k, 2 k, ... below `length`."""
    for stride in range(1, length + 1):
        if len(times := list(range(0, length, stride))) == steps:
            return times
    raise ConfigError(f"method.sampling.{key}: {length} times have no {steps} that are equally far apart; try 100.")
