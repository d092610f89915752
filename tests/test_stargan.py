"""StarGAN: one generator for all classes, asked for each of them."""

from typing import Any

import pytest
import torch
from toy_translation import run_steps, spots, stirred

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.methods.cyclegan import CycleGANLoss
from cfxai.methods.stargan import StarGAN
from cfxai.nn.classifiers import compact
from cfxai.nn.patch_gan import PatchGAN
from cfxai.nn.translators import unet
from cfxai.protocols import Explainer, Method


def toy_stargan(classes: int, **settings: Any) -> StarGAN:
    torch.manual_seed(0)
    return StarGAN(
        compact(widths=(4, 8), classes=classes),
        stirred(unet(width=2, classes=classes)),
        discriminator=PatchGAN(width=4, layers=2, classes=classes, spectral=True),
        loss=CycleGANLoss(),
        steps=12,
        classes=classes,
        **settings,
    )


def test_it_keeps_its_promises() -> None:
    method = toy_stargan(3)
    assert isinstance(method, Method)
    assert isinstance(method, Explainer)


def test_a_stargan_asks_every_other_class_and_tells_its_networks_which(monkeypatch: pytest.MonkeyPatch) -> None:
    method, told = toy_stargan(3), []
    forward = method.generator.forward
    monkeypatch.setattr(method.generator, "forward", lambda x, c: told.append(c.tolist()) or forward(x, c))
    asked = {0: set(), 1: set(), 2: set()}
    for step in range(8):
        torch.manual_seed(step)
        batch = spots(6, step) | {"label": torch.tensor([0, 1, 2] * 2)}
        list(method.losses(batch, step))
        both, back = told[-2:]
        assert both[6:] == back == [0, 1, 2] * 2, "identity and the way back"
        for source, target in zip(back, both[:6], strict=True):
            asked[source].add(target)
    assert asked == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}


def test_a_stargan_trains_and_translates_a_mixture_of_targets() -> None:
    method = toy_stargan(3, average=0.5, learning_rate=1e-3)
    values = run_steps(method, 2, lambda step: spots(6, step) | {"label": torch.tensor([0, 1, 2] * 2)})
    assert set(values) == {"adv", "counterfactual", "cycle", "identity", "d_real", "d_fake"}
    image = spots(1, 0)["image"].expand(3, -1, -1, -1)
    found = method.generate(image, torch.tensor([0, 1, 2])).counterfactual
    assert len({float(one.sum()) for one in found}) == 3


def test_one_key_makes_stargan_one_of_three_classes() -> None:
    settings = ["classifier.classes=3", "generator.width=4", "discriminator.width=4"]
    parts = Parts(compose(CONF / "stargan_pneumonia.yaml", settings))
    method, batch = parts["method"], spots(6, 0, pixels=64) | {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    assert isinstance(method, StarGAN)
    assert run_steps(method, 1, lambda step: batch)["d_real"] > 0
    with torch.no_grad():
        made = [method.generate(batch["image"], torch.full((6,), target)).counterfactual for target in range(3)]
        assert parts["oracle"](batch["image"]).shape == (6, 3)
    assert not torch.equal(made[1], made[2])
