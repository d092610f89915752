"""Training of the classifier: it learns, its schedule, its average."""

import math
from typing import Any

import pytest
import torch
from toy import fabric

from cfxai.loop import train_step
from cfxai.methods.classification import Classification
from cfxai.nn.classifiers import compact
from cfxai.nn.ema import Average
from cfxai.protocols import Method


def bright_or_dark(step: int, size: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    label = torch.arange(size) % 2
    noise = torch.rand(size, 1, 16, 16, generator=generator) - 0.5
    return {"image": noise + (label.view(-1, 1, 1, 1) - 0.5) * 0.5, "label": label}


def test_it_learns_and_its_average_too() -> None:
    torch.manual_seed(0)
    method = Classification(compact(widths=(4, 8)), steps=60, learning_rate=1e-2)
    assert isinstance(method, Method)
    optimizers = {name: fabric().setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    losses = [train_step(method, optimizers, fabric(), bright_or_dark(step), step, 0)["ce"] for step in range(60)]
    assert losses[-1] < losses[0] / 2
    batch = bright_or_dark(1000, 64)
    averaged = method.average.module
    assert not any(module.training for module in averaged.modules())
    assert (averaged(batch["image"]).argmax(1) == batch["label"]).float().mean() > 0.95


def test_the_learning_rate_rises_and_falls() -> None:
    method = Classification(compact(widths=(4,)), steps=100, learning_rate=2.0)

    def rate(step: int) -> float:
        next(method.losses(bright_or_dark(0), step))
        return method.optimizers["classifier"].param_groups[0]["lr"]

    assert rate(0) == pytest.approx(2.0 / 5)
    assert rate(4) == pytest.approx(1 + math.cos(math.pi * 0.04))
    assert rate(50) == pytest.approx(1.0)
    assert 0 < rate(99) < 0.001


def test_smoothing_is_that_of_the_cross_entropy() -> None:
    torch.manual_seed(0)
    method = Classification(compact(widths=(4,)), steps=10, smoothing=0.1)
    batch = bright_or_dark(0)
    _, terms = next(method.losses(batch, 0))
    log_p = method.classifier(batch["image"]).log_softmax(1)
    target = torch.nn.functional.one_hot(batch["label"], 2) * 0.9 + 0.05
    assert terms["ce"].item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)


def test_an_average_follows_and_counts() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    torch.nn.init.zeros_(net[0].weight)
    average = Average(net, 0.9)
    expected = 0.0
    for n in range(30):
        torch.nn.init.constant_(net[0].weight, n)
        net[1].num_batches_tracked += 1
        average.update(net)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.module[1].num_batches_tracked == 30
    assert not any(p.requires_grad for p in average.parameters())
