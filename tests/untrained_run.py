"""A run's directory as training leaves it, seconds after it began: its networks have learned nothing.

`legible` gives it a classifier and a method whose answers can be told by hand.
"""

from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from small_run import COIN, KIDNEY, TINY
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.config.compose import compose
from cfxai.loaded import LoadedRun, load_run
from cfxai.protocols import NORMAL, Counterfactual, Image, Labels, Logits
from cfxai.run.checkpoint import save_checkpoint


def untrained_run(folder: Path, *, pictures: bool = False) -> Path:
    """The directory of a COIN run on the phantom, in `folder`.

    Its images are CT slices in HU with a field of view in mm, or whole pictures over their format's full range.
    """
    directory = folder / "run"
    (directory / "weights").mkdir(parents=True)
    cfg = compose(Path(KIDNEY), [*TINY, *COIN, f"cache={folder / 'cache'}"])
    if pictures:
        OmegaConf.update(cfg, "data.intensity", {"_target_": "cfxai.data.intensity.FullRange"}, merge=False)
        cfg.data.field_of_view = None
    OmegaConf.save(cfg, directory / "config.yaml", resolve=True)
    parts = Parts(cfg)
    save_file(parts["classifier"].state_dict(), directory / "weights/classifier.safetensors")
    save_checkpoint(directory / "checkpoints/best.ckpt", parts["method"], {"step": 0})
    return directory


class Bright(nn.Module):
    """Calls an image abnormal when a pixel is above 0.5, whatever lies around it: p = sigmoid(8 (max x - 0.5))."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(8.0))

    def forward(self, image: Image) -> Logits:
        z = self.sharpness * (image.flatten(1).amax(1) - 0.5)
        return torch.stack([torch.zeros_like(z), z], 1)


class Dim:
    """Makes an image normal by cutting what is above 0; cannot make one abnormal."""

    name = "dim"

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        if (target != NORMAL).any():
            raise ValueError("towards normal only")
        return Counterfactual(image, image.clamp(max=0.0), target)


class Both(Dim):
    """Also makes an image abnormal, by a bright corner."""

    both_ways = True

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        if (target == NORMAL).all():
            return super().generate(image, target)
        brighter = image.clone()
        brighter[..., :4, :4] = 1.0
        return Counterfactual(image, brighter, target)


class Gradual(Dim):
    """Also shows an image at any severity from 0 to 1: what is above 0 becomes it. Counts how often it was asked to."""

    def __init__(self) -> None:
        self.modules, self.sweeps = nn.ModuleDict(), 0

    def levels(self, count: int) -> Tensor:
        return torch.linspace(0, 1, count)

    def severity(self, image: Image) -> Tensor:
        return image.flatten(1).amax(1).clamp(min=0)

    def sweep(self, image: Image, levels: Tensor) -> Tensor:
        self.sweeps += 1
        return torch.stack([torch.where(image > 0, level, image) for level in levels])


def legible(directory: Path, method: type[Dim] = Dim) -> LoadedRun:
    """The run with `Bright` as its classifier and `method` for its own."""
    run = load_run(directory)
    run.classifier = Bright().to(run.device).eval().requires_grad_(False)
    run.method = method()
    return run
