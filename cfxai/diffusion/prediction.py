"""What a network predicts of a noised image, and how much its error counts at each time; independent of each other.

With x = alpha x_0 + sigma eps and v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512), any one of eps, x_0
and v gives the others. Errors differ by a factor only: |error of eps|² = SNR |error of x_0|², |error of v|² = (SNR + 1)
|error of x_0|², so that a network that predicts v can be trained to minimise the error of eps.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cfxai.protocols import Image

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["eps", "x0", "v", "min_snr"]
Coefficient = Tensor | float


def target(prediction: Prediction, image: Image, noise: Image, alpha: Coefficient, sigma: Coefficient) -> Image:
    """What the network should have said of alpha * image + sigma * noise."""
    match prediction:
        case "eps":
            return noise
        case "x0":
            return image
        case "v":
            return alpha * noise - sigma * image


def separated(
    prediction: Prediction, said: Image, noisy: Image, alpha: Coefficient, sigma: Coefficient
) -> tuple[Image, Image]:
    """The image x_0 and the noise eps that the network sees in `noisy`: alpha x_0 + sigma eps is `noisy` again."""
    match prediction:
        case "eps":
            return (noisy - sigma * said) / alpha, said
        case "x0":
            return said, (noisy - alpha * said) / sigma
        case "v":
            return alpha * noisy - sigma * said, sigma * noisy + alpha * said


def weight(
    prediction: Prediction, weighting: Weighting, snr: Float[Tensor, " b"], gamma: float = 5.0
) -> Float[Tensor, " b"]:
    """The factor that turns squared errors of `prediction` into those that `weighting` names.

    `eps`, `x0`, `v`: errors of these; `min_snr`: of x_0, times min(SNR, gamma), so that less noise than at gamma counts
    no more (Hang et al. 2023, arXiv:2303.09556, where gamma is 5).
    """
    return _of_image(weighting, snr, gamma) / _of_image(prediction, snr, gamma)


def _of_image(weighting: Weighting, snr: Tensor, gamma: float) -> Tensor:
    """The same against errors of x_0."""
    match weighting:
        case "eps":
            return snr
        case "x0":
            return torch.ones_like(snr)
        case "v":
            return snr + 1
        case "min_snr":
            return snr.clamp(max=gamma)
