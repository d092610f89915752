"""The two published codes: one step of ours against values that theirs gave on the same closed-form weights and images.

anindyamitra2002/CFE (PyTorch) and hcmlab/GANterfactual (Keras on TensorFlow 2.15) were run on a CPU.
"""

from functools import cache
from math import prod, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.methods.cyclegan import CycleGAN

PHASE = {"generator.abnormal": 0.1, "generator.normal": 0.9, "discriminator.normal": 1.7, "discriminator.abnormal": 2.3}
NARROW = ("generator.width=8", "discriminator.width=8")
SHIPPED = "anindya"
KERAS = "ganterfactual"


class Formula(nn.Module):
    """Logits (3 mean(x), 2 mean(x^2) - 1/2)."""

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        return torch.stack([3 * x.mean(1), 2 * x.square().mean(1) - 0.5], 1)


def images() -> Tensor:
    """Two normal images and two abnormal ones, [4 1 64 64]."""
    k = torch.arange(2 * 64 * 64, dtype=torch.float64)
    both = [0.8 * torch.sin(0.013 * k + phase) * torch.cos(0.0007 * k) for phase in (0.0, 1.3)]
    return torch.cat(both).view(4, 1, 64, 64)


@torch.no_grad()
def fill(network: nn.Module, phase: float, *, keras: bool) -> None:
    """A sine over all parameters, in the published order and layout: Keras keeps kernels as [h w in out]."""
    start = 0
    for name, parameter in network.named_parameters():
        shape = parameter.shape
        wave = torch.sin(0.37 * torch.arange(start, start + prod(shape), dtype=torch.float64) + phase)
        start += prod(shape)
        layer = network.get_submodule(name.rpartition(".")[0])
        if len(shape) > 1:
            wave = wave * sqrt(2 / prod(shape[1:]))
            wave = wave.view(*shape[2:], shape[1], shape[0]).permute(3, 2, 0, 1) if keras else wave.view(shape)
        elif name.endswith(".gain") or (isinstance(layer, nn.GroupNorm) and name.endswith(".weight")):
            wave = 1 + 0.1 * wave
        else:
            wave = 0.1 * wave
        parameter.copy_(wave)


@cache
def published(compat: str, *settings: str) -> Any:
    """`compat=…` as a user composes it, on the closed form, in float64; and each phase's terms and gradient norms."""
    cfg = compose(CONF / "cyclegan_pneumonia.yaml", [f"compat={compat}", *NARROW, *settings])
    method: CycleGAN = Parts(cfg, classifier=Formula())["method"]
    method.modules.double()
    for name, phase in PHASE.items():
        fill(method.modules.get_submodule(name), phase, keras=compat == KERAS)
    return method


def step(compat: str, *settings: str) -> tuple[dict[str, float], dict[str, float]]:
    """The terms of a step without any update, and the gradient norm of each network after its phase."""
    method, terms, norms = published(compat, *settings), {}, dict.fromkeys(PHASE, 0.0)
    for name, phase in method.losses({"image": images(), "label": torch.tensor([0, 0, 1, 1])}, 0):
        method.modules.zero_grad()
        sum(phase.values()).backward()
        terms |= {key: value.item() for key, value in phase.items()}
        for key in (key for key in norms if key.startswith(name)):
            gradients = [p.grad for p in method.modules.get_submodule(key).parameters() if p.grad is not None]
            norms[key] = torch.stack([g.norm() for g in gradients]).norm().item() if gradients else 0.0
    return terms, norms


@pytest.mark.parametrize(
    ("compat", "widths", "generator", "discriminator"),
    [
        (SHIPPED, (32, 64), 1_630_657, 2_764_609),
        (SHIPPED, (8, 8), 102_769, 44_521),
        (KERAS, (32, 64), 1_542_351, 2_762_695),
        (KERAS, (8, 8), 96_831, 44_287),
    ],
)
def test_parameters(compat: str, widths: tuple[int, int], generator: int, discriminator: int) -> None:
    settings = [f"generator.width={widths[0]}", f"discriminator.width={widths[1]}"]
    parts = Parts(compose(CONF / "cyclegan_pneumonia.yaml", [f"compat={compat}", *settings]))
    found = [sum(p.numel() for p in parts[name].parameters()) for name in ("generator", "discriminator")]
    assert found == [generator, discriminator]


FORWARD = {
    # mean, standard deviation and first pixels of the abnormal counterfactuals of normal images; then of the verdicts
    SHIPPED: ((-0.081552, 0.593172), (-0.445148, -0.749733, -0.689633), (2, 3, 3), (-0.267341, 0.350289)),
    KERAS: ((0.075269, 0.743003), (0.999972, 0.999999, 0.999940), (2, 4, 4), (0.29661, 3.15174)),
}


@pytest.mark.parametrize("compat", FORWARD)
def test_the_networks_compute_what_theirs_do(compat: str) -> None:
    method, (moments, first, shape, verdicts) = published(compat), FORWARD[compat]
    of_samples = int(compat == SHIPPED)  # what recorded it divides by n - 1 there, by n here
    with torch.no_grad():
        made = method.generator(images()[:2], torch.tensor([1, 1]))
        verdict = method.discriminator(made, torch.tensor([1, 1]))
    tolerance = 1e-5 if compat == SHIPPED else 1e-4
    assert made.flatten()[:3].tolist() == pytest.approx(first, rel=tolerance)
    assert [made.mean().item(), made.std(correction=of_samples).item()] == pytest.approx(moments, rel=tolerance)
    assert verdict.shape == shape
    assert [verdict.mean().item(), verdict.std(correction=of_samples).item()] == pytest.approx(verdicts, rel=tolerance)


def test_a_step_of_cfe_with_its_faults() -> None:
    terms, norms = step(SHIPPED)
    expected = {"adv": 3.518976, "counterfactual": 0.519879, "cycle": 10 * 1.099685, "identity": 0.749607}
    assert terms == pytest.approx(expected | {"d_fake": 0.187357}, rel=1e-5)
    assert sum(terms[name] for name in expected) == pytest.approx(15.785314, rel=1e-5)
    assert norms == pytest.approx(
        {
            "generator.abnormal": 21.1676,
            "generator.normal": 50.0519,
            "discriminator.normal": 0.0,
            "discriminator.abnormal": 7.908424,
        },
        rel=1e-5,
    )


def test_what_cfe_logs_of_its_discriminators_and_what_it_would_have_paid_for_the_class() -> None:
    repaired, norms = step(SHIPPED, "loss.targets=one_hot", "loss.discriminator_loss=both")
    assert repaired["d_real"] + repaired["d_fake"] == pytest.approx(1.859993, rel=1e-5)
    assert 2 * repaired["d_fake"] == pytest.approx(0.185041 + 0.187357, rel=1e-5)
    assert repaired["counterfactual"] == pytest.approx(0.490289, rel=1e-5)
    assert norms["discriminator.normal"] > 0
    summed, _ = step(SHIPPED, "loss.targets=one_hot", "loss.counterfactual=1.0")
    assert summed["counterfactual"] == pytest.approx(0.980578, rel=1e-5)


def test_a_step_of_ganterfactual() -> None:
    terms, _ = step(KERAS)
    assert list(terms)[:2] == ["d_real", "d_fake"], "its discriminators learn first"
    expected = {"adv": 29.9350, "counterfactual": 0.591148, "cycle": 10 * 1.479823, "identity": 1.665509}
    assert {name: terms[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert sum(terms[name] for name in expected) == pytest.approx(46.9899, rel=1e-4)


@pytest.mark.parametrize("compat", [SHIPPED, KERAS])
def test_published_training(compat: str) -> None:
    method = published(compat)
    for optimizer in method.optimizers.values():
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (2e-4, (0.5, 0.999))
    assert not method.average.decay
    assert method.pool is None
    with torch.no_grad():
        assert method.generator(torch.zeros(1, 1, 100, 60).double(), torch.tensor([0])).shape == (1, 1, 100, 60)
