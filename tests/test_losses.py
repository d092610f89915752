"""Each term against its formula in numpy, and the two repairs: gradients at confident logits, an exact identity."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from cfxai import losses
from cfxai.nn.generators import add_bounded

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=(3, 4, 4)), RNG.normal(size=(5, 4, 4))
X, Y = RNG.uniform(-1, 1, (2, 3, 2, 6, 5))


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


ADVERSARIAL = {
    "hinge": (-FAKE.mean(), np.maximum(0, 1 - REAL).mean() / 2, np.maximum(0, 1 + FAKE).mean() / 2),
    "bce": (
        -np.log(sigmoid(FAKE)).mean(), -np.log(sigmoid(REAL)).mean() / 2, -np.log(1 - sigmoid(FAKE)).mean() / 2,
    ),
    "least_squares": (((FAKE - 1) ** 2).mean(), ((REAL - 1) ** 2).mean() / 2, (FAKE**2).mean() / 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_adversarial(kind: Any) -> None:
    generator, on_real, on_fake = ADVERSARIAL[kind]
    assert losses.adversarial_generator(tensor(FAKE), kind).item() == pytest.approx(generator, rel=1e-5)
    found = losses.adversarial_discriminator(tensor(REAL), tensor(FAKE), kind)
    assert {k: v.item() for k, v in found.items()} == pytest.approx({"real": on_real, "fake": on_fake}, rel=1e-5)


def test_relativistic_compares_every_real_with_every_fake_image() -> None:
    gaps = np.array([[real - fake for fake in FAKE] for real in REAL])
    generator = losses.adversarial_generator(tensor(FAKE), "relativistic", tensor(REAL))
    assert generator.item() == pytest.approx(-np.log(sigmoid(-gaps)).mean(), rel=1e-5)
    found = losses.adversarial_discriminator(tensor(REAL), tensor(FAKE), "relativistic")
    assert {k: v.item() for k, v in found.items()} == pytest.approx({"pairs": -np.log(sigmoid(gaps)).mean()}, rel=1e-5)


def test_the_gradient_penalty_of_a_quadratic_and_its_own_gradient() -> None:
    image, slope = tensor(X).requires_grad_(), tensor(2.0, dtype=torch.float64, requires_grad=True)
    penalty = losses.gradient_penalty((slope * image.square()).flatten(1).sum(1), image)
    squares = (X**2).reshape(len(X), -1).sum(1)
    assert penalty.item() == pytest.approx((2 * 2 * 2 * 2 * squares).mean(), rel=1e-5)  # (2 a x)^2
    penalty.backward()
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx((2 * 4 * 2 * squares).mean(), rel=1e-5)  # d/da 4 a^2 x^2


def test_carl_weighs_organ_and_rest_alike_whatever_their_size() -> None:
    organ = np.zeros((3, 6, 5), bool)
    organ[0, :2, :3], organ[1, 4, 4], organ[2, 1:] = True, True, True
    change = np.abs(X - Y).sum(1)
    expected = np.mean([change[i][organ[i]].mean() + change[i][~organ[i]].mean() for i in range(3)])
    assert losses.carl(tensor(X), tensor(Y), tensor(organ)).item() == pytest.approx(expected, rel=1e-5)
    nowhere = torch.zeros(3, 6, 5, dtype=torch.bool)
    assert losses.carl(tensor(X), tensor(Y), nowhere).item() == pytest.approx(change.mean(), rel=1e-5)


def test_feature_matching_compares_means() -> None:
    found, wanted = RNG.normal(size=(4, 7)), RNG.normal(size=(6, 7))
    expected = ((found.mean(0) - wanted.mean(0)) ** 2).mean()
    assert losses.feature_matching(tensor(found), tensor(wanted)).item() == pytest.approx(expected, rel=1e-5)


def test_consistency_is_the_kl_divergence() -> None:
    logits, wanted = RNG.normal(size=(4, 3)), RNG.dirichlet(np.ones(3), 4)
    wanted[0] = [1, 0, 0]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.nan_to_num(wanted * np.log(wanted / p)).sum(1).mean()
    assert losses.consistency_logits(tensor(logits), tensor(wanted)).item() == pytest.approx(expected, rel=1e-5)


def test_published_consistency_agrees_away_from_the_clamp() -> None:
    logits = tensor(RNG.normal(size=(6, 2))).float()
    wanted = torch.softmax(tensor(RNG.normal(size=(6, 2))), 1).float()
    ours, published = losses.consistency_logits(logits, wanted), losses.consistency_clamped(logits, wanted)
    assert ours.item() == pytest.approx(published.item(), rel=1e-4)


@pytest.mark.parametrize("logit", [2.0, 12.0, 20.0, 60.0])
def test_confident_abnormal_images_are_moved_by_our_term_only(logit: float) -> None:
    wanted = tensor([[1.0, 0.0]])

    def slope(term: Any) -> float:
        logits = tensor([[0.0, logit]], requires_grad=True)
        term(logits, wanted).backward()
        assert logits.grad is not None
        return float(logits.grad[0, 1])

    assert slope(losses.consistency_logits) == pytest.approx(sigmoid(logit), rel=1e-4)
    if logit > 11.6:
        assert slope(losses.consistency_clamped) == 0


def test_l1_and_total_variations() -> None:
    x, y, d = tensor(X), tensor(Y), Y - X
    assert losses.l1(x, y).item() == pytest.approx(np.abs(X - Y).mean(), rel=1e-5)
    absolute = np.abs(np.diff(d, axis=2)).mean() + np.abs(np.diff(d, axis=3)).mean()
    assert losses.total_variation(x, y).item() == pytest.approx(absolute, rel=1e-5)
    g = 255 * np.abs(d) / 2
    squared = (np.diff(g, axis=2) ** 2).mean() + (np.diff(g, axis=3) ** 2).mean()
    assert losses.total_variation_squared(x, y).item() == pytest.approx(squared, rel=1e-5)
    assert losses.total_variation(x, x + 0.25).item() == pytest.approx(0, abs=1e-6)
    volume = torch.rand(1, 1, 4, 4, 4)
    assert losses.total_variation(torch.zeros_like(volume), volume) > 0, "volumes have three axes"


values = st.floats(-1, 1, width=32)


@given(image=values, residual=values)
def test_a_bounded_change_stays_in_range(image: float, residual: float) -> None:
    assert -1 <= changed(image, residual).item() <= 1


@given(image=values)
def test_no_change_is_exactly_none_and_has_a_gradient(image: float) -> None:
    residual = torch.zeros(1, 1, 1, 1, requires_grad=True)
    result = add_bounded(torch.full((1, 1, 1, 1), image), residual)
    assert result.item() == image
    result.sum().backward()
    assert residual.grad is not None
    assert residual.grad.item() == pytest.approx(1 + image, abs=1e-6)


@given(image=values, wanted=values)
def test_every_value_is_reachable_from_every_other(image: float, wanted: float) -> None:
    room = 1 - image if wanted > image else 1 + image
    residual = (wanted - image) / room if room else 0.0
    assert -1 <= residual <= 1
    assert changed(image, residual).item() == pytest.approx(wanted, abs=1e-6)


def changed(image: float, residual: float) -> Tensor:
    return add_bounded(torch.full((1, 1, 1, 1), image), torch.full((1, 1, 1, 1), residual))
