"""An attributor's answers on noisy copies of the image, summed up."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.targets import as_target
from cfxai.errors import ConfigError
from cfxai.protocols import Attributor, Image, Labels, Saliency, Target


class SmoothGrad:
    """The mean of an attributor's contributions over noisy copies of the image (Smilkov et al. 2017, arXiv:1706.03825).

    Signed contributions are averaged and their channels then reduced in the attributor's way; of an attributor that
    does not know channels, its maps are averaged. The noise follows from the seed and the image size alone.

    Args:
        attributor: whose answers are averaged, any.
        samples: noisy copies; 1 or more, for `VarGrad` 2 or more.
        noise: standard deviation as a share of the range [-1, 1]; the paper recommends 0.1 to 0.2.
        batch_size: noisy images that the attributor gets at a time.
        seed: of the noise.

    Raises:
        ConfigError: a number outside its range.
    """

    def __init__(
        self, attributor: Attributor, *, samples: int = 50, noise: float = 0.15, batch_size: int = 32, seed: int = 0
    ) -> None:
        if min(samples, batch_size) < 1 or noise < 0:
            raise ConfigError(
                f"{type(self).__name__}: samples={samples}, batch_size={batch_size}, noise={noise}; samples and "
                "batch_size must be 1 or more, noise 0 or more."
            )
        self.attributor, self.samples, self.noise = attributor, samples, noise
        self.batch_size, self.seed = batch_size, seed

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        mean, squares = torch.zeros(()), torch.zeros(())  # Welford's running mean and sum of squared deviations
        for count, answer in enumerate(self._answers(image, as_target(target)), start=1):
            mean, squares = mean.to(answer), squares.to(answer)
            change = answer - mean
            mean = mean + change / count
            squares = squares + change * (answer - mean)
        summary = self.summary(mean, squares / self.samples)
        return self.attributor.reduced(summary) if isinstance(self.attributor, Channelwise) else summary

    def summary(self, mean: Tensor, variance: Tensor) -> Tensor:
        """What is kept of the answers."""
        return mean

    def _answers(self, image: Image, question: Target) -> Iterator[Tensor]:
        """The answer to each noisy batch, [b c *spatial] or [b *spatial]."""
        ask = self.attributor.contributions if isinstance(self.attributor, Channelwise) else self.attributor.attribute
        random = torch.Generator().manual_seed(self.seed)
        at_once = max(1, self.batch_size // len(image))
        for first in range(0, self.samples, at_once):
            count = min(at_once, self.samples - first)
            noisy = [image + self._noise(image, random) for _ in range(count)]
            indices = torch.arange(len(image), device=image.device).repeat(count)
            yield from ask(torch.cat(noisy), question[indices]).unflatten(0, (count, len(image)))

    def _noise(self, image: Image, random: torch.Generator) -> Tensor:
        return (torch.randn(image.shape[1:], generator=random) * (2 * self.noise)).to(image)


class SquareGrad(SmoothGrad):
    """The mean of squared contributions over noisy copies (SmoothGrad-squared: Hooker et al. 2019, arXiv:1806.10758).

    >= 0: how much a pixel matters, not in which direction. Arguments as of `SmoothGrad`.
    """

    def summary(self, mean: Tensor, variance: Tensor) -> Tensor:
        return variance + mean**2


class VarGrad(SmoothGrad):
    """The variance of contributions over noisy copies (Adebayo et al. 2018, arXiv:1810.03307).

    >= 0: where the answer is unsteady. Arguments as of `SmoothGrad`.
    """

    def summary(self, mean: Tensor, variance: Tensor) -> Tensor:
        return variance
