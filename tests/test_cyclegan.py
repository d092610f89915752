"""CycleGAN: what each term asks for, who learns from it, what `generate` promises, and that it flips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import fit, weights
from toy_translation import Bright, run_steps, spots, spots8

from cfxai import losses
from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.errors import ConfigError
from cfxai.methods.cyclegan import CycleGAN, CycleGANLoss
from cfxai.methods.image_pool import ImagePool
from cfxai.nn.classifiers import compact
from cfxai.nn.discriminators import PatchDiscriminator
from cfxai.nn.generators import ResidualUNet
from cfxai.nn.per_class import PerClass
from cfxai.protocols import Explainer, Method

SHIPPED = {
    "counterfactual": 0.5,
    "towards": "squared",
    "targets": "shipped",
    "discriminator_loss": "shipped",
}


def toy_cyclegan(*, loss: Mapping[str, Any] | None = None, **settings: Any) -> CycleGAN:
    """The same one each time."""
    torch.manual_seed(0)
    make = {
        "generator": lambda: ResidualUNet(widths=(4, 8)),
        "discriminator": lambda: PatchDiscriminator(widths=(4, 8)),
    }
    networks = {name: PerClass(normal=network(), abnormal=network()) for name, network in make.items()}
    given: dict[str, Any] = {"classifier": Bright(), "steps": 12, "learning_rate": 4e-3, "average": 0.95}
    return CycleGAN(loss=CycleGANLoss(**(loss or {})), **(given | networks | settings))


def flipped(method: CycleGAN, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """The share of normal images made abnormal, and of abnormal ones made normal."""
    image, label = batch["image"], batch["label"]
    called = method.classifier(method.generate(image, 1 - label).counterfactual).argmax(1)
    return tuple((called != label)[label == which].float().mean().item() for which in (0, 1))  # type: ignore[return-value]


def test_it_keeps_its_promises() -> None:
    method = toy_cyclegan()
    assert isinstance(method, Method)
    assert isinstance(method, Explainer)


def test_the_default_flips_both_ways_and_the_shipped_loss_neither() -> None:
    held_out = spots(400, 999)
    assert (Bright()(held_out["image"]).argmax(1) == held_out["label"]).all()
    ours, shipped = toy_cyclegan(steps=45), toy_cyclegan(steps=45, loss=SHIPPED)
    before = weights(shipped)
    for method in (ours, shipped):
        run_steps(method, 45)
    assert min(flipped(ours, held_out)) >= 0.9
    assert max(flipped(shipped, held_out)) < 0.7
    dead = [name for name in before if name.startswith("discriminator.normal.")]
    assert dead
    assert all(torch.equal(weights(shipped)[name], before[name]) for name in dead if "original" in name)


class Shift(nn.Module):
    """An image and one number."""

    classes = 2

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.calls = nn.Parameter(torch.tensor(by)), 0

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        self.calls += 1
        return image + self.by


def shifting(**settings: Any) -> CycleGAN:
    """Normal: + 0.1; abnormal: + 0.3; a discriminator's verdict is 1 or 2 times the mean."""

    class Mean(Shift):
        def forward(self, image: Tensor, condition: Tensor) -> Tensor:
            return self.by * image.flatten(1).mean(1)

    return toy_cyclegan(
        generator=PerClass(normal=Shift(0.1), abnormal=Shift(0.3)),
        discriminator=PerClass(normal=Mean(1.0), abnormal=Mean(2.0)),
        average=0.0,
        **settings,
    )


def levels(*values: float, label: list[int]) -> dict[str, Tensor]:
    image = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    return {"image": image, "label": torch.tensor(label)}


def test_each_term_is_the_sum_over_both_directions_of_a_mean() -> None:
    batch = levels(0.0, 0.2, -0.2, label=[0, 1, 1])  # becomes 0.3 | 0.3, -0.1
    phases = dict(shifting(loss={"counterfactual": 0.0}).losses(batch, 0))
    found = {name: value.item() for terms in phases.values() for name, value in terms.items()}
    on_fake = [(2 * 0.3) ** 2, (0.3**2 + 0.1**2) / 2]  # as abnormal, as normal
    expected = {
        "adv": (2 * 0.3 - 1) ** 2 + (0.7**2 + 1.1**2) / 2,
        "cycle": 10 * (0.4 + 0.4),
        "identity": 0.1 + 0.3,
        "d_real": (1.0 + ((2 * 0.2 - 1) ** 2 + (2 * -0.2 - 1) ** 2) / 2) / 2,
        "d_fake": sum(on_fake) / 2,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_each_generator_runs_once_over_the_images_and_once_for_the_cycle() -> None:
    method = shifting()
    list(method.losses(levels(0.0, 0.2, label=[0, 1]), 0))
    assert [network.calls for network in method.generator.children()] == [2, 2]


@pytest.mark.parametrize(
    ("term", "function"),
    [("adv", "adversarial_generator"), ("counterfactual", "cross_entropy"), ("cycle", "l1"), ("identity", "l1")],
)
def test_weight_zero_switches_a_term_off_uncomputed(monkeypatch: pytest.MonkeyPatch, term: str, function: str) -> None:
    off = {"cycle": 0.0, "identity": 0.0} if function == "l1" else {term: 0.0}
    monkeypatch.setattr(losses, function, lambda *args: pytest.fail("computed"))
    phases = dict(toy_cyclegan(loss=off).losses(spots(8, 0), 0))
    assert set(phases["generator"]) == {"adv", "counterfactual", "cycle", "identity"} - set(off)
    assert ("discriminator" in phases) == (term != "adv")


def test_every_network_learns_in_its_own_phase_only() -> None:
    method = toy_cyclegan(loss={"penalty": 1.0})
    seen = {}
    for name, terms in method.losses(spots(8, 0), 0):
        method.modules.zero_grad()
        sum(terms.values()).backward()
        seen[name] = {
            key: p.grad for key, p in method.modules.named_parameters() if p.grad is not None and p.requires_grad
        }
        method.optimizers[name].step()
    for name, gradients in seen.items():
        own = {f"{name}.{key}" for key, _ in method.modules[name].named_parameters()}
        assert set(gradients) == own, "every parameter, and no other network's"
        assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for gradient in seen["discriminator"].values() if gradient.ndim > 1)


def test_the_classifier_stays_as_it_was() -> None:
    classifier = compact(widths=(4, 8)).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    method = toy_cyclegan(classifier=classifier)
    method.modules.train()
    run_steps(method, 3)
    method.generate(spots(4, 0)["image"], torch.zeros(4, dtype=torch.long))
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(module.training for module in classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())


def test_the_order_of_separate_steps() -> None:
    method = toy_cyclegan(loss={"discriminator_loss": "separate"}, discriminators_first=True)
    assert [(name, list(terms)) for name, terms in method.losses(spots(8, 0), 0)] == [
        ("discriminator", ["d_real"]),
        ("discriminator", ["d_fake"]),
        ("generator", ["adv", "counterfactual", "cycle", "identity"]),
    ]


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1]])
def test_a_batch_of_one_class_trains_what_it_can(label: list[int]) -> None:
    values = run_steps(toy_cyclegan(), 1, lambda step: spots(len(label), step) | {"label": torch.tensor(label)})
    assert set(values) == {"adv", "counterfactual", "cycle", "identity", "d_real", "d_fake"}
    assert all(np.isfinite(list(values.values())))


@pytest.mark.parametrize("targets", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
def test_generate_asks_the_generator_of_each_images_target(targets: list[int]) -> None:
    method, batch = shifting(), levels(0.0, 0.1, 0.2, 0.3, label=[0, 1, 0, 1])
    found = method.generate(batch["image"], torch.tensor(targets))
    added = [[0.1, 0.3][target] for target in targets]
    torch.testing.assert_close((found.counterfactual - found.image)[:, 0, 0, 0], torch.tensor(added))
    assert not found.counterfactual.requires_grad
    with pytest.raises(ValueError, match="0 to 1"):
        method.generate(batch["image"], torch.tensor([0, 1, 2, 0]))


def test_generate_uses_the_average() -> None:
    method = toy_cyclegan()
    run_steps(method, 3)
    image, target = spots(4, 0)["image"], torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        found = method.generate(image, target).counterfactual
        assert torch.equal(found, method.average.module(image, target))
        assert not torch.equal(found, method.generator(image, target))


def pooled(**settings: Any) -> CycleGAN:
    return toy_cyclegan(pool=ImagePool(5, 2, 1, 16), **settings)


def test_an_interrupted_run_ends_with_the_same_weights_pool_and_average(tmp_path: Path) -> None:
    whole, halves = pooled(), [pooled(), pooled()]
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    fit(whole, tmp_path / "whole", batches=spots8, steps=8)
    for method, steps in zip(halves, (3, 8), strict=True):
        fit(method, tmp_path / "halves", batches=spots8, steps=steps)
    ours, theirs = weights(whole), weights(halves[1])
    assert ours["pool.taken"].tolist() == [5, 5]
    assert {name.split(".")[0] for name in ours} == {"generator", "discriminator", "average", "pool"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy_cyclegan(classes=1), r"method\.classes"),
        (lambda: toy_cyclegan(classes=3), r"generator\.classes: is 2, but method\.classes 3"),
        (lambda: toy_cyclegan(generator=ResidualUNet()), r"generator\.classes: is 0.*conf/stargan_pneumonia"),
        (lambda: list(toy_cyclegan(pool=ImagePool(5, 2, 1, 32)).losses(spots(8, 0), 0)), r"1 x 32 x 32.*1 x 16 x 16"),
        (lambda: list(toy_cyclegan(classifier=compact(classes=3)).losses(spots(8, 0), 0)), r"method\.classes: is 2.*3"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["generator=unet", "generator.output=masked", "generator.width=4"],
        [
            "generator=resnet",
            "generator.width=2",
            "discriminator=patch_gan",
            "discriminator.width=4",
            "loss.penalty=1.0",
        ],
    ],
)
def test_what_a_user_composes_trains(settings: list[str]) -> None:
    method = Parts(compose(CONF / "cyclegan_pneumonia.yaml", settings))["method"]
    batch = spots(4, 0, pixels=64)
    values = run_steps(method, 1, lambda step: batch)
    assert values["d_real"] > 0
    first, second = method.generator.children()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs), "two networks, not one"
    with torch.no_grad():
        assert method.generate(batch["image"], batch["label"]).counterfactual.shape == batch["image"].shape
