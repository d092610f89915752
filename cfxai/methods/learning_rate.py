"""How a learning rate changes while a network learns."""

from math import cos, pi

import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError

SCHEDULES = ("cosine", "constant", "step", "plateau")
WARM_UP = 20
"""The rate rises over one of so many parts of the steps."""
PATIENCE = 3
REDUCTION = 0.2


class LearningRate(nn.Module):
    """`rate(step)`: up to the peak over the first 5 % of the steps, then by one of these schedules.

    cosine      to zero by half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)
    constant    stays
    step        a tenth from half of the steps on, a hundredth from three quarters on (He et al. 2016, arXiv:1512.03385)
    plateau     a fifth whenever 3 validations in a row have not brought a lower loss than the lowest before

    A module, so that checkpoints hold what `plateau` remembers.

    Args:
        schedule: one of these names.
        peak: the highest rate.
        steps: length of the training.

    Raises:
        ConfigError: there is no such schedule.
    """

    lowest: Tensor
    waited: Tensor
    reductions: Tensor

    def __init__(self, schedule: str, peak: float, steps: int) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ConfigError(f"classifier_training.schedule: choose one of {', '.join(SCHEDULES)}, not '{schedule}'.")
        self.schedule, self.peak, self.steps = schedule, peak, steps
        if schedule == "plateau":
            self.register_buffer("lowest", torch.tensor(torch.inf))
            self.register_buffer("waited", torch.zeros((), dtype=torch.long))
            self.register_buffer("reductions", torch.zeros((), dtype=torch.long))

    def forward(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.steps // WARM_UP))
        return self.peak * warm * self._share(step)

    def _share(self, step: int) -> float:
        """Of the peak, once warm."""
        if self.schedule == "cosine":
            return (1 + cos(pi * step / self.steps)) / 2
        if self.schedule == "step":
            return 0.1 ** ((step >= self.steps / 2) + (step >= self.steps * 3 / 4))
        if self.schedule == "plateau":
            return REDUCTION ** int(self.reductions)
        return 1.0

    def observe(self, loss: float) -> None:
        """What a validation found."""
        if self.schedule != "plateau":
            return
        if (found := self.lowest.new_tensor(loss)) < self.lowest:
            self.lowest.copy_(found)
            self.waited.zero_()
            return
        self.waited += 1
        if int(self.waited) == PATIENCE:
            self.reductions += 1
            self.waited.zero_()
