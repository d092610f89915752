"""CycleGAN and StarGAN: what each term asks for, who learns from it, what `generate` promises, and that it flips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import fabric, fit, weights

from cfxai import losses
from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.errors import ConfigError
from cfxai.loop import train_step
from cfxai.methods.cyclegan import CycleGAN, CycleGANLoss
from cfxai.methods.image_pool import ImagePool
from cfxai.methods.stargan import StarGAN
from cfxai.nn.classifiers import compact
from cfxai.nn.discriminators import PatchDiscriminator
from cfxai.nn.generators import ResidualUNet
from cfxai.nn.patch_gan import PatchGAN
from cfxai.nn.per_class import PerClass
from cfxai.nn.translators import unet
from cfxai.protocols import Explainer, Method

SHIPPED = {
    "counterfactual": 0.5,
    "towards": "squared",
    "targets": "shipped",
    "discriminator_loss": "shipped",
}


class Bright(nn.Module):
    """Abnormal = somewhere there is a bright spot; differentiable, nowhere certain."""

    def forward(self, image: Tensor) -> Tensor:
        spots = F.avg_pool2d(image, 5, 1).flatten(1)
        z = 2.5 * (torch.logsumexp(16 * spots, 1) / 16 - 0.35)
        return torch.stack([-z, z], 1)


def spots(size: int, seed: int, pixels: int = 16) -> dict[str, Tensor]:
    """Noise, every second image with a bright spot at a random place."""
    random = torch.Generator().manual_seed(seed)
    label, line = torch.arange(size) % 2, torch.arange(float(pixels))
    row, column = (torch.rand(2, size, 1, generator=random) * (pixels - 8) + 4 - line).square()
    spot = torch.exp(-(row[:, :, None] + column[:, None]) / 12)[:, None] * label.view(-1, 1, 1, 1)
    noise = 0.2 * torch.randn(size, 1, pixels, pixels, generator=random)
    return {"image": (noise - 0.5 + 1.3 * spot).clamp(-1, 1), "label": label}


def spots8(step: int) -> dict[str, Tensor]:
    return spots(8, step)


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


def stirred(network: Any) -> Any:
    """With weights that are no longer the identity's."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def run_steps(method: Any, steps: int, batch: Any = spots8) -> dict[str, float]:
    cpu, values = fabric(), {}
    optimizers = {name: cpu.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    for step in range(steps):
        values = train_step(method, optimizers, cpu, batch(step), step, 0)
    return values


def flipped(method: CycleGAN, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """The share of normal images made abnormal, and of abnormal ones made normal."""
    image, label = batch["image"], batch["label"]
    called = method.classifier(method.generate(image, 1 - label).counterfactual).argmax(1)
    return tuple((called != label)[label == which].float().mean().item() for which in (0, 1))  # type: ignore[return-value]


def test_they_keep_the_promises() -> None:
    for method in (toy_cyclegan(), toy_stargan(3)):
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
