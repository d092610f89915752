"""What CycleGAN's classifier term asks for, in each of its forms, against the formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfxai import losses
from cfxai.errors import ConfigError
from cfxai.methods.cyclegan import CycleGANLoss


@given(p=st.floats(1e-6, 1 - 1e-6), target=st.integers(0, 1))
def test_the_default_never_stops_asking_for_the_target(p: float, target: int) -> None:
    """Its gradient with respect to p(target) is -1/p, negative on all of (0, 1)."""
    own = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([own.log(), (1 - own).log()])[None]
    loss = CycleGANLoss().verdict(logits if target == 0 else logits.flip(1), torch.tensor([target]))
    (gradient,) = torch.autograd.grad(loss, own)
    assert gradient.item() == pytest.approx(-1 / p, rel=1e-3)


@pytest.mark.parametrize("target", [0, 1])
def test_the_shipped_targets_ask_both_ways_for_one_half(target: int) -> None:
    p = torch.tensor([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    logits = torch.stack([1 - p, p], 1).clamp_min(1e-12).log()
    said = [
        0.5 * CycleGANLoss(towards="squared", targets="shipped").verdict(one[None], torch.tensor([target])).item()
        for one in logits
    ]
    assert said == pytest.approx([0.5, 0.41, 0.3125, 0.25, 0.3125, 0.41, 0.5], abs=1e-6)


def test_one_hot_targets_by_the_papers_formula() -> None:
    p = torch.tensor([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    logits = torch.stack([1 - p, p], 1).clamp_min(1e-12).log()
    said = [CycleGANLoss(towards="squared").verdict(one[None], torch.tensor([1])).item() / 2 for one in logits]
    assert said == pytest.approx([1, 0.81, 0.5625, 0.25, 0.0625, 0.01, 0], abs=1e-6)


LOGITS = np.random.default_rng(0).normal(size=(5, 3)) * 3
TARGET = np.array([0, 1, 2, 1, 0])


def test_what_the_classifier_can_be_asked_for() -> None:
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    own = p[range(5), TARGET]
    rest = np.array([max(np.delete(z, t)) for z, t in zip(LOGITS, TARGET, strict=True)])
    kl = 0.9 * np.log(0.9 / own) + 0.1 * np.log(0.1 / (1 - own))
    expected = {
        "cross_entropy": -np.log(own).mean(),
        "squared": ((p - np.eye(3)[TARGET]) ** 2).sum(1).mean(),
        "margin": np.maximum(0, 2.2 - LOGITS[range(5), TARGET] + rest).mean(),
        "probability": kl.mean(),
    }
    logits, target = torch.from_numpy(LOGITS), torch.from_numpy(TARGET)
    found = {kind: CycleGANLoss(towards=kind).verdict(logits, target).item() for kind in expected}
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_target_probability_is_reached_and_not_passed() -> None:
    own = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.SGD([own], 1.0)
    for _ in range(300):
        optimizer.zero_grad()
        losses.target_probability(torch.stack([own, own * 0])[None], torch.tensor([0]), 0.8).backward()
        optimizer.step()
    assert own.sigmoid().item() == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial": "relativistic"}, r"loss\.adversarial: .*hinge"),
        ({"towards": "kl"}, r"loss\.towards: .*margin"),
        ({"discriminator_loss": "none"}, r"loss\.discriminator_loss: .*separate"),
        ({"targets": "shipped"}, r"loss\.towards=squared"),
        ({"probability": 1.0}, r"loss\.probability"),
    ],
)
def test_unknown_forms_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CycleGANLoss(**settings)
