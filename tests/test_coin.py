"""COIN: who learns from what, what stands still, and what `generate` promises."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from toy import fabric, toy_batch, toy_coin, weights

from cfxai import losses
from cfxai.errors import ConfigError
from cfxai.loop import train_step
from cfxai.methods.coin import Coin
from cfxai.protocols import Explainer, Method


def phases(coin: Any, step: int = 0) -> Any:
    return coin.losses(toy_batch(step), step)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run_steps(coin: Any, steps: int) -> None:
    optimizers = {name: fabric().setup_optimizers(optimizer) for name, optimizer in coin.optimizers.items()}
    for step in range(steps):
        train_step(coin, optimizers, fabric(), toy_batch(step), step, 0)


def test_it_keeps_the_promises() -> None:
    assert isinstance(toy_coin(), Method)
    assert isinstance(toy_coin(), Explainer)


def test_the_generators_phase_teaches_the_generator_only() -> None:
    coin = toy_coin()
    name, terms = next(phases(coin))
    assert name == "generator"
    sum(terms.values()).backward()
    assert set(terms) == {"adv", "kl", "rec"}
    assert any(p.grad is not None and p.grad.any() for p in coin.generator.parameters())
    assert all(p.grad is None for p in coin.discriminator.parameters())
    assert all(p.grad is None for p in coin.classifier.parameters())


def test_the_discriminators_phase_teaches_the_discriminator_only() -> None:
    coin = toy_coin()
    both = list(phases(coin))
    assert [name for name, _ in both] == ["generator", "discriminator"]
    sum(both[1][1].values()).backward()
    assert all(p.grad is None for p in coin.generator.parameters())
    assert all(p.grad is not None for p in coin.discriminator.parameters())


def test_a_step_of_the_discriminator_alone_builds_no_graph_through_the_generator() -> None:
    coin, made = toy_coin(), []
    coin.generator.register_forward_hook(lambda module, args, output: made.append(output.grad_fn))
    assert [name for name, _ in phases(coin, step=1)] == ["discriminator"]
    assert made == [None]


def test_the_classifier_stays_as_it_was() -> None:
    coin = toy_coin()
    before = state(coin.classifier)
    coin.classifier.train()
    coin = type(coin)(
        coin.classifier, coin.generator, discriminator=coin.discriminator, loss=coin.loss, steps=4, average=0.5
    )
    run_steps(coin, 4)
    coin.generate(toy_batch(0)["image"], torch.zeros(8, dtype=torch.long))
    assert same(state(coin.classifier), before), "weights and BatchNorm statistics"
    assert not any(module.training for module in coin.classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in coin.classifier.parameters())


def test_spectral_norms_move_in_the_discriminators_phase_only() -> None:
    coin = toy_coin()

    def vectors() -> dict[str, torch.Tensor]:
        return {name: value for name, value in state(coin.discriminator).items() if name.endswith(("_u", "_v"))}

    start, steps = vectors(), phases(coin)
    assert start
    next(steps)
    assert same(vectors(), start), "frozen while the generator learns"
    next(steps)
    assert not same(vectors(), start)
    learnt = vectors()
    coin.generate(toy_batch(0)["image"], torch.zeros(8, dtype=torch.long))
    coin.discriminator.eval()(toy_batch(0)["image"])
    assert same(vectors(), learnt)
    assert all(p.requires_grad for p in coin.discriminator.parameters()), "freezing ends with the phase"


@pytest.mark.parametrize(
    ("term", "function"),
    [
        ("kl", "consistency"),
        ("tv", "variation"),
        ("adv", "adversarial_generator"),
        ("rec", "l1"),
        ("minc", "l1"),
        ("features", "feature_matching"),
    ],
)
def test_weight_zero_switches_a_term_off_uncomputed(monkeypatch: pytest.MonkeyPatch, term: str, function: str) -> None:
    others = dict.fromkeys(("adv", "kl", "rec", "tv", "minc", "features"), 1.0)
    if function == "l1":
        others |= {"rec": 0.0, "minc": 0.0}
    coin = toy_coin(loss=others | {term: 0.0})
    spy = Mock(side_effect=AssertionError("computed"))
    monkeypatch.setattr(losses if hasattr(losses, function) else coin.loss, function, spy)
    _, terms = next(phases(coin))
    assert set(terms) == {name for name, weight in (others | {term: 0.0}).items() if weight}


def test_without_an_adversarial_weight_the_discriminator_does_not_learn() -> None:
    assert [name for name, _ in phases(toy_coin(loss={"adv": 0.0}))] == ["generator"]


def test_weights_multiply_their_terms() -> None:
    one = next(phases(toy_coin(loss={"tv": 1.0, "minc": 1.0})))[1]
    three = next(phases(toy_coin(loss=dict.fromkeys(("adv", "kl", "rec", "tv", "minc"), 3.0))))[1]
    for name, value in one.items():
        assert three[name].item() == pytest.approx(3 * value.item(), rel=1e-5, abs=1e-7)


def test_generate_starts_at_the_identity_and_moves_towards_normal_with_training() -> None:
    image, normal = toy_batch(100, 32)["image"], torch.zeros(32, dtype=torch.long)
    coin = toy_coin(loss={"adv": 0.0, "rec": 0.0}, steps=40, generator_every=1)
    assert torch.equal(coin.generate(image, normal).counterfactual, image)
    before = coin.classifier(image).softmax(1)[:, 0].mean()
    run_steps(coin, 40)
    found = coin.generate(image, normal)
    assert not found.counterfactual.requires_grad
    assert found.counterfactual.abs().max() <= 1
    assert coin.classifier(found.counterfactual).softmax(1)[:, 0].mean() > before
    assert 0 <= found.difference.min() <= found.difference.max() <= 1


def test_generate_uses_the_average_and_leaves_everything_as_it_was() -> None:
    coin = toy_coin()
    run_steps(coin, 3)
    image, normal = toy_batch(0)["image"], torch.zeros(8, dtype=torch.long)
    modes, before = [m.training for m in coin.modules.modules()], weights(coin)
    found = coin.generate(image, normal).counterfactual
    assert [m.training for m in coin.modules.modules()] == modes
    assert same(weights(coin), before)
    with torch.no_grad():
        assert torch.equal(found, coin.average.module(image, normal))
        assert not torch.equal(found, coin.generator(image, normal))


def test_without_an_average_there_is_no_second_generator() -> None:
    coin, image, normal = toy_coin(average=0.0), toy_batch(0)["image"], torch.zeros(8, dtype=torch.long)
    assert set(coin.modules) == {"generator", "discriminator"}
    run_steps(coin, 3)
    found = coin.generate(image, normal).counterfactual
    with torch.no_grad():
        coin.generator.eval()
        assert torch.equal(found, coin.generator(image, normal))


def test_no_gradients_outlive_their_step() -> None:
    coin = toy_coin()
    run_steps(coin, 3)
    assert all(p.grad is None for p in coin.modules.parameters())


@pytest.mark.parametrize(("beta1", "moments"), [(0.0, 1), (0.5, 2)])
def test_a_first_moment_is_kept_only_where_it_averages(beta1: float, moments: int) -> None:
    coin = toy_coin(betas=(beta1, 0.9))
    run_steps(coin, 3)
    for optimizer in coin.optimizers.values():
        for p, state in optimizer.state.items():
            assert sum(value.shape == p.shape for value in state.values() if value.ndim) == (moments if p.ndim else 0)


def test_generate_goes_one_way() -> None:
    with pytest.raises(ValueError, match="normal class"):
        toy_coin().generate(toy_batch(0)["image"], torch.ones(8, dtype=torch.long))


def test_a_batch_of_one_kind_only_trains_what_it_can() -> None:
    coin = toy_coin()
    with torch.no_grad():
        coin.classifier.network.get_parameter("head.bias")[1] -= 100  # everything is called normal
    assert [(name, set(terms)) for name, terms in phases(coin)] == [("generator", {"kl", "rec"})]


def test_the_learning_rate_falls_to_zero_at_the_end() -> None:
    coin = toy_coin(steps=10, decay=0.5, learning_rate=1.0)

    def rate(step: int) -> float:
        list(phases(coin, step))
        return coin.optimizers["generator"].param_groups[0]["lr"]

    assert [rate(step) for step in (0, 5, 6, 9)] == pytest.approx([1, 1, 0.8, 0.2])


class Echo(torch.nn.Module):
    """A generator that adds a tenth of its condition to the image, and remembers the conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.1))
        self.told: list[list[int]] = []

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return self.under(image, [condition])[0]

    def under(self, image: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        self.told += [condition.tolist() for condition in conditions]
        return [image * 0.8 + self.gain * c.view(-1, 1, 1, 1) for c in conditions]


def exaggerating(**settings: Any) -> Coin:
    """Singla's method between classes that `Reads` tells from an image's first pixel."""
    coin = toy_coin(
        loss={"reconstruct": "self"} | settings.pop("loss", {}),
        generator=Echo(),
        discriminator=Remembers(),
        **({"direction": "both", "discriminate": "all", "condition": "wanted", "average": 0.0} | settings),
    )
    coin.classifier = Reads()
    return coin


class Reads(torch.nn.Module):
    """p(abnormal) is the first pixel."""

    def forward(self, image: Tensor) -> Tensor:
        p = image[:, 0, 0, 0].clamp(1e-6, 1 - 1e-6)
        return torch.stack([(1 - p).log(), p.log()], 1)


class Remembers(torch.nn.Module):
    """A discriminator that remembers its conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.told: list[list[int]] = []

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        self.told.append(condition.tolist())
        return self.weight * image.flatten(1).mean(1)


def first_pixels(*values: float) -> dict[str, Tensor]:
    image = torch.zeros(len(values), 1, 16, 16)
    image[:, 0, 0, 0] = torch.tensor(values)
    return {"image": image}


def test_progressive_exaggeration_asks_every_image_for_the_opposite() -> None:
    coin = exaggerating(bins=10)
    list(coin.losses(first_pixels(0.03, 0.31, 0.97), 0))
    now, opposite = [0, 3, 9], [9, 6, 0]
    assert coin.generator.told == [opposite, now, now], "the counterfactual; the image kept; the way back"
    assert coin.discriminator.told == [opposite, now, opposite], "the generator's verdict; real; fake"
    task = coin._task(first_pixels(0.03, 0.31, 0.97)["image"])
    torch.testing.assert_close(task.wanted[:, 1], torch.tensor([0.97, 0.69, 0.03]))


@pytest.mark.parametrize(("condition", "told"), [("called", [0, 1, 1]), ("wanted", [0, 0, 0])])
def test_inpainting_asks_abnormal_images_only_to_change(condition: str, told: list[int]) -> None:
    coin = exaggerating(direction="normal", condition=condition, loss={"reconstruct": "change"})
    list(coin.losses(first_pixels(0.3, 0.5, 0.97), 0))
    assert coin.generator.told == [told, [0, 0, 0]], "the counterfactual; the cyclic term"
    assert coin.discriminator.told == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_both_ways_lead_to_the_class_asked_for_and_leave_what_is_there_already() -> None:
    coin = exaggerating()
    image = first_pixels(0.2, 0.9)["image"]
    for target, told in ((0, [0, 0]), (1, [1, 1])):
        coin.generator.told.clear()
        coin.generate(image, torch.full((2,), target))
        assert coin.generator.told == [told]


def test_the_reference_can_be_the_reconstruction() -> None:
    coin = exaggerating(reference="reconstruction")
    found = coin.generate(first_pixels(0.9)["image"], torch.tensor([0]))
    assert found.image[0, 0, 5, 5].item() == pytest.approx(0.1), "told 1"
    assert found.difference.min().item() == pytest.approx(0.05, rel=1e-5), "told 0: the blur of both is the same"


def test_carl_needs_the_organ() -> None:
    coin = toy_coin(loss={"distance": "carl"})
    with pytest.raises(ConfigError, match="organ_masks"):
        next(phases(coin))
    batch = toy_batch(0) | {"organ": torch.zeros(8, 16, 16, dtype=torch.bool)}
    assert "rec" in next(coin.losses(batch, 0))[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "both"}, "method.discriminate"),
        ({"bins": 1}, "method.bins"),
        ({"loss": {"reconstruct": "self"}}, "loss.reconstruct"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_coin(**settings)


def test_both_ways_need_two_classes() -> None:
    coin = exaggerating()
    coin.classifier = lambda image: torch.zeros(len(image), 3)
    with pytest.raises(ConfigError, match="2 classes"):
        list(coin.losses(first_pixels(0.1), 0))


def test_gradient_penalties_reach_the_discriminator() -> None:
    coin = toy_coin(loss={"penalty": 2.0, "adversarial": "relativistic"})
    terms = dict(phases(coin))["discriminator"]
    assert set(terms) == {"d_pairs", "d_r1", "d_r2"}
    coin.discriminator.zero_grad()
    terms["d_r1"].backward()
    assert all(p.grad is not None for name, p in coin.discriminator.named_parameters() if "original" in name)


def test_conditions_are_the_bins_of_the_classifiers_probability() -> None:
    coin = exaggerating(bins=4)
    assert coin.condition_of(first_pixels(0.0, 0.24, 0.26, 0.5, 0.99, 1.0)["image"]).tolist() == [0, 0, 1, 2, 3, 3]
