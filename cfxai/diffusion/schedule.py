"""How much signal and how much noise an image has at each time of a diffusion."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.protocols import Image


class Schedule(nn.Module):
    """x_t = alpha_t x_0 + sigma_t eps with alpha_t² + sigma_t² = 1, for times t in [0, T - 1].

    `linear`: beta_t from 1e-4 to 0.02 (Ho et al. 2020, arXiv:2006.11239); `cosine`: alpha_t falls as a cosine (Nichol &
    Dhariwal 2021, arXiv:2102.09672). Both are defined at whole t; between them lambda_t = log(alpha_t / sigma_t), half
    the log-SNR, is interpolated linearly. At t = 0 some noise is left: 1 % of a standard deviation with `linear`.

    Args:
        kind: `linear` or `cosine`.
        length: T.

    Raises:
        ConfigError: another kind, or a length below 2.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, kind: str = "linear", length: int = 1000) -> None:
        super().__init__()
        if kind not in ("linear", "cosine"):
            raise ConfigError(f"method.schedule.kind: choose linear or cosine, not '{kind}'.")
        if length < 2:
            raise ConfigError(f"method.schedule.length: must be 2 or more, got {length}.")
        self.kind, self.length = kind, length
        remaining = np.cumprod(1 - betas(kind, length))
        self._half_log_snr = (np.log(remaining) - np.log1p(-remaining)) / 2
        self.register_buffer("alpha", torch.tensor(np.sqrt(remaining)).float(), persistent=False)
        self.register_buffer("sigma", torch.tensor(np.sqrt(1 - remaining)).float(), persistent=False)

    def of(self, time: Tensor, image: Image) -> tuple[Tensor, Tensor]:
        """alpha and sigma at whole times [b], shaped to multiply images [b c *spatial]."""
        shape = (-1,) + (1,) * (image.ndim - 1)
        return self.alpha[time].view(shape), self.sigma[time].view(shape)

    def noised(self, image: Image, noise: Image, time: Tensor) -> Image:
        """x_t of images x_0 [b c *spatial] at whole times [b]."""
        alpha, sigma = self.of(time, image)
        return alpha * image + sigma * noise

    def snr(self, time: Tensor) -> Float[Tensor, " b"]:
        """alpha_t² / sigma_t² at whole times [b]."""
        return (self.alpha[time] / self.sigma[time]).square()

    def half_log_snr(self, time: float) -> float:
        """lambda at any time in [0, T - 1]."""
        return float(np.interp(time, np.arange(self.length), self._half_log_snr))

    def time(self, half_log_snr: float) -> float:
        """The time at which lambda has this value; the nearer end where it never has."""
        return float(np.interp(-half_log_snr, -self._half_log_snr, np.arange(self.length)))

    def level(self, time: float) -> tuple[float, float]:
        """alpha and sigma at any time in [0, T - 1], in double precision."""
        ratio = self.half_log_snr(time)
        return 1 / math.sqrt(1 + math.exp(-2 * ratio)), 1 / math.sqrt(1 + math.exp(2 * ratio))


def betas(kind: str, length: int) -> Float[np.ndarray, " t"]:
    """The share of variance that noise replaces in each step, in double precision."""
    if kind == "linear":  # as published for 1000 steps; other lengths end about equally noisy
        return np.minimum(np.linspace(1e-4, 0.02, length) * 1000 / length, 0.999)
    edges = np.cos((np.arange(length + 1) / length + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - edges[1:] / edges[:-1], 0.999)
