"""What solvers and inversions ask of a network: at any time, which image and which noise it sees."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cfxai.diffusion.prediction import Prediction, separated
from cfxai.diffusion.schedule import Schedule
from cfxai.protocols import Image

Predict = Callable[[Image, Float[Tensor, " b"]], Image]
"""(noisy images, times) -> the network's output."""


class Denoiser:
    """(x_t, t) -> (x_0, eps), with alpha_t x_0 + sigma_t eps = x_t.

    Args:
        predict: the network.
        prediction: what it says.

    Attributes:
        evaluations: of the network so far, each of one batch.
    """

    def __init__(self, predict: Predict, schedule: Schedule, prediction: Prediction) -> None:
        self.predict, self.schedule, self.prediction = predict, schedule, prediction
        self.evaluations = 0

    def __call__(self, noisy: Image, time: float) -> tuple[Image, Image]:
        self.evaluations += 1
        said = self.predict(noisy, torch.full((len(noisy),), time, dtype=torch.float32, device=noisy.device))
        return separated(self.prediction, said, noisy, *self.schedule.level(time))
