"""What a counterfactual's change is like: how much of the image it leaves, and whether it is noise."""

from typing import Any

import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity as ssim
from torch import Tensor

from cfxai.metrics.per_image import PerImage
from cfxai.protocols import Image, Result

VISIBLE = 0.01
"""Share of the intensity range from which a pixel counts as changed."""
WINDOW = 7
"""Pixels of a side of SSIM's window, all of the same weight, or as many as a smaller image has."""


class Change:
    """Means over images asked for another class than their own, with 95 % intervals over patients (`…_ci`).

    `ssim`: structural similarity of image and counterfactual, 1 = the same. `sparsity`: share of the pixels that
    change by less than `VISIBLE`. `high_frequency_energy`: share of the change's energy above half the Nyquist
    frequency, in [0, 1]; near 0.8 for white noise in 2-D, near 0 for a lesion that goes. None for attributors, and of
    the last where nothing changes.

    Args:
        resamples: bootstrap samples of patients.
        seed: of the bootstrap.
    """

    def __init__(self, *, resamples: int = 2000, seed: int = 0) -> None:
        self.found = PerImage(("ssim", "sparsity", "high_frequency_energy"), resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        changed = result.counterfactual
        if changed is None or not (moved := changed.target != result.label).any():
            return
        image, counterfactual = changed.image[moved].float(), changed.counterfactual[moved].float()
        similar = structural_similarity(image, counterfactual)
        sparsity = (changed.difference[moved] < VISIBLE).flatten(1).float().mean(1)
        energy = high_frequency_energy(counterfactual - image)
        groups = [group for group, one in zip(result.group, moved.tolist(), strict=True) if one]
        for i, group in enumerate(groups):
            noise = float(energy[i]) if energy[i].isfinite() else None
            values = {"ssim": float(similar[i]), "sparsity": float(sparsity[i]), "high_frequency_energy": noise}
            self.found.add(group, values)

    def compute(self) -> dict[str, Any]:
        return dict(self.found.summary())


def structural_similarity(a: Image, b: Image) -> Float[Tensor, " b"]:
    """SSIM (Wang et al. 2004) of each pair of images in [-1, 1]."""
    window = min(WINDOW, *(side - 1 + side % 2 for side in a.shape[2:]))
    pairs = zip(a.double().cpu().numpy(), b.double().cpu().numpy(), strict=True)
    return torch.tensor([ssim(x, y, win_size=window, data_range=2.0, channel_axis=0) for x, y in pairs])


def high_frequency_energy(change: Image) -> Float[Tensor, " b"]:
    """Share of sum |F(change)|^2 at radial frequencies above a quarter of a cycle per pixel; NaN of no change."""
    axes = tuple(range(2, change.ndim))
    energy = torch.fft.fftn(change.double(), dim=axes).abs().square().sum(1)
    squares = torch.zeros(change.shape[2:], dtype=torch.double, device=change.device)
    for axis, side in enumerate(change.shape[2:]):
        shape = [1] * len(axes)
        shape[axis] = side
        squares = squares + torch.fft.fftfreq(side, dtype=torch.double, device=change.device).square().reshape(shape)
    high = squares.sqrt() > 0.25
    return (energy * high).flatten(1).sum(1) / energy.flatten(1).sum(1)
