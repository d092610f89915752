"""Training in 16-bit floats: gradients scaled, overflows left out, the scale kept; here on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from cfxai import loop
from cfxai.errors import ConfigError, NumericsError
from cfxai.run.directory import Run
from cfxai.training import fabric_of


class Scaled:
    """y = w x in fp16; the loss is as steep as `factor` makes it."""

    def __init__(self, factor: float) -> None:
        self.modules = nn.ModuleDict({"line": nn.Linear(1, 1, bias=False)})
        nn.init.ones_(self.modules["line"].weight)
        self.optimizers = {"line": SGD(self.modules.parameters(), 1e-6)}
        self.factor = factor

    def losses(self, _batch: Mapping[str, Tensor], step: int) -> Any:
        yield "line", {"y": self.modules["line"](torch.full((1, 1), self.factor)).float().sum()}


def fp16(scale: float) -> tuple[Fabric, torch.amp.GradScaler]:
    """Loss scaling on the CPU, which the tool itself refuses."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler)), scaler


def fit_in_fp16(method: Any, folder: Path, steps: int, scale: float) -> torch.amp.GradScaler:
    with_fabric, scaler = fp16(scale)
    loop.fit(
        method, lambda step: {}, Run(folder), with_fabric, steps=steps, seed=0, validate=lambda done: {},
        validate_every=99, checkpoint_every=1,
    )  # fmt: skip
    return scaler


def test_an_overflow_in_fp16_halves_the_scale_and_the_step_is_left_out(tmp_path: Path) -> None:
    """A gradient of 100 fits into 16 bits at a scale of 512 (largest number 65504), and is stepped unscaled."""
    method = Scaled(100.0)
    scaler = fit_in_fp16(method, tmp_path, 2, 2048.0)
    assert scaler.get_scale() == 512.0
    assert method.modules["line"].weight.item() == 1.0
    continued = fit_in_fp16(method, tmp_path, 4, 2048.0)
    assert continued.get_scale() == 512.0, "the checkpoint remembers it"
    assert method.modules["line"].weight.item() == pytest.approx(1 - 2 * 100 * 1e-6)


def test_a_gradient_that_no_scale_makes_finite_is_an_error_in_fp16(tmp_path: Path) -> None:
    class Root(Scaled):
        def losses(self, _batch: Mapping[str, Tensor], step: int) -> Any:
            yield "line", {"y": (self.modules["line"](torch.ones(1, 1)).float() - 1).abs().sqrt().sum()}

    method = Root(1.0)
    with pytest.raises(NumericsError, match=r"step 2: the gradient of line\.weight"):
        fit_in_fp16(method, tmp_path, 9, 4.0)
    assert method.modules["line"].weight.item() == 1.0


def test_what_is_cut_in_fp16_is_the_gradient_and_not_its_scaled_up_self(tmp_path: Path) -> None:
    class Cut(Scaled):
        clips = {"line": 0.5}

        def __init__(self) -> None:
            super().__init__(3.0)
            # Adam would hide the size of a gradient, but for eps; fused, it leaves the unscaling to itself.
            self.optimizers = {"line": AdamW(self.modules.parameters(), 1.0, eps=0.5, weight_decay=0.0, fused=True)}

    method = Cut()
    fit_in_fp16(method, tmp_path, 1, 1024.0)
    assert method.modules["line"].weight.item() == pytest.approx(1 - 0.5 / (0.5 + 0.5), abs=1e-3)


def test_fp16_is_refused_on_a_cpu() -> None:
    cfg = OmegaConf.create({"trainer": {"accelerator": "cpu", "precision": "16-mixed"}})
    with pytest.raises(ConfigError, match="16-mixed needs a GPU; on a CPU use 32-true or bf16-mixed"):
        fabric_of(cfg)
