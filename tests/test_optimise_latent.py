"""Search in a code, with an autoencoder and a classifier whose nearest point is known."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_latents import ByHand, UpperIsBright, aged, batch

from cfxai.errors import ConfigError
from cfxai.latents.latent_space import LatentSpace
from cfxai.methods.optimise_latent import OptimiseLatent
from cfxai.protocols import ChecksItself, Encodes, Explainer, Fitted, Graded, Method, goes_both_ways


class Counting(ByHand):
    """Counts renderings of images, and inversions."""

    def __init__(self) -> None:
        super().__init__()
        self.rendered, self.inverted = 0, 0

    def encode_stochastic(self, image: Tensor, z: Tensor) -> Tensor:
        self.inverted += len(image)
        return super().encode_stochastic(image, z)

    def render(self, noise: Tensor, z: Tensor, origin: Tensor | None = None) -> Tensor:
        self.rendered += len(noise)
        return super().render(noise, z, origin)


@cache
def fitted(*hold: str) -> LatentSpace:
    method = OptimiseLatent(UpperIsBright(), ByHand(), space=LatentSpace(2, kind="logistic", hold=hold))
    method.fit([aged(80, 0), aged(80, 1)])
    return method.space


def searching(*hold: str, autoencoder: ByHand | None = None, **settings: Any) -> OptimiseLatent:
    return OptimiseLatent(UpperIsBright(), autoencoder or ByHand(), space=fitted(*hold), **settings)


def test_it_keeps_its_promises() -> None:
    method = searching()
    for promise in (Method, Explainer, Fitted, Encodes, ChecksItself):
        assert isinstance(method, promise)
    assert not isinstance(method, Graded)
    assert goes_both_ways(method)


def test_it_finds_the_shortest_move_that_is_known_in_closed_form() -> None:
    method = searching(margin=0.4, rounds=1, steps=120, learning_rate=0.05, patience=40)
    told = batch(6, 2)
    z, target = ByHand().encode(told["image"]), 1 - told["label"]
    found = method.generate(told["image"], target)
    assert (UpperIsBright()(found.counterfactual).argmax(1) == target).all()
    goal = 0.4 / 40 * (2 * target - 1)  # the lead is 40 times the upper half's brightness
    covariance = method.space.covariance
    shortest = ((goal - z[:, 0]) / covariance[0, 0])[:, None] * covariance[0]
    length = method.space.length(shortest)
    assert torch.allclose(found.extras["move"], length, rtol=0.1)
    assert (found.extras["move"] > 0.999 * length).all()
    assert torch.allclose(ByHand().encode(found.counterfactual) - z, shortest, atol=0.1)


def test_what_was_found_is_verified() -> None:
    told = batch(4, 2)
    method = searching(rounds=1, steps=2, verify=lambda image, rendered, target, classifier: image)
    found = method.generate(told["image"], 1 - told["label"])
    assert torch.equal(found.counterfactual, told["image"])
    assert torch.equal(found.extras["reencoded_score"], found.extras["score"])


def test_a_search_leaves_a_confounder_alone() -> None:
    method, asked = searching("age"), aged(8, 2)
    target = 1 - asked["label"]
    found = method.generate(asked["image"], target)
    assert (UpperIsBright()(found.counterfactual).argmax(1) == target).all()
    moved = ByHand().encode(found.counterfactual) - ByHand().encode(asked["image"])
    assert moved.abs().max() > 0.1
    assert (moved @ method.space.confounders.T).abs().max() < 1e-5


def test_each_image_is_searched_for_by_itself_and_no_longer_than_it_must() -> None:
    autoencoder = Counting()
    method = searching(autoencoder=autoencoder, patience=0)
    told = batch(4, 3)
    target = torch.zeros(4, dtype=torch.long)
    together = method.generate(told["image"], target)
    assert autoencoder.inverted == 4
    there = told["label"] == 0
    assert torch.allclose(together.counterfactual[there], told["image"][there], atol=1e-6)
    spent, autoencoder.rendered = autoencoder.rendered, 0
    for i in range(4):
        alone = method.generate(told["image"][i : i + 1], target[i : i + 1])
        assert torch.allclose(alone.counterfactual, together.counterfactual[i : i + 1], atol=1e-5)
    assert autoencoder.rendered == spent, "images that arrived are not rendered again for those that have not"
    assert torch.equal(method.generate(told["image"], target).counterfactual, together.counterfactual)


def test_a_space_that_is_not_fitted_is_refused() -> None:
    told = batch(2, 4)
    with pytest.raises(ConfigError, match="not fitted"):
        OptimiseLatent(UpperIsBright(), ByHand(), space=LatentSpace(2)).generate(told["image"], told["label"])
