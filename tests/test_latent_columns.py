"""Moves along one column of the manifest, and those that leave another alone."""

import pytest
import torch
from toy_latents import ByHand, UpperIsBright, aged

from cfxai.errors import ConfigError, DataError
from cfxai.latents.latent_space import LatentSpace
from cfxai.methods.latent_shift import LatentShift


def held(*names: str, told: str = "label") -> LatentShift:
    space = LatentSpace(2, kind="logistic", hold=names)
    return LatentShift(UpperIsBright(), ByHand(), space=space, told=told, strongest=1.0)


def test_a_move_leaves_a_planted_confounder_alone() -> None:
    training, asked = [aged(200, 0), aged(200, 1)], aged(20, 2)
    target = 1 - asked["label"]
    method, free = held("age"), held()
    for one in (method, free):
        one.fit(training)
    z = torch.cat([ByHand().encode(one["image"]) for one in training]).double()
    age = torch.tensor([float(years) for one in training for years in one["columns"]["age"]]).double()
    least_squares = torch.linalg.lstsq(z - z.mean(0), (age - age.mean())[:, None]).solution[:, 0]
    direction = method.space.confounders[0].double()
    assert abs(torch.cosine_similarity(direction, least_squares, dim=0)) > 0.99
    years = []
    for one in (method, free):
        found = one.generate(asked["image"], target)
        assert (UpperIsBright()(found.counterfactual).argmax(1) == target).all()
        moved = ByHand().encode(found.counterfactual) - ByHand().encode(asked["image"])
        years.append((moved.double() @ least_squares).abs().mean())
        if one is method:
            assert (moved.double() @ direction).abs().max() < 1e-5
    assert years[1] > 5
    assert years[0] < 0.2 * years[1]


def test_one_column_is_moved_and_another_held() -> None:
    training, asked = aged(200, 0), aged(20, 2)
    training["columns"] |= {"upper": training["label"].tolist()}
    training["columns"] |= {"lower": (ByHand().encode(training["image"])[:, 1] > 0).int().tolist()}
    method = held("lower", "site", told="upper")
    method.fit([training])
    with pytest.raises(ConfigError, match="No move changes this score alone"):  # two directions of two are held
        method.generate(asked["image"], asked["label"])
    method = held("upper", told="lower")
    method.fit([training])
    target = (ByHand().encode(asked["image"])[:, 1] <= 0).long()
    found = method.generate(asked["image"], target)
    assert (found.extras["reencoded_grade"] == target).all()
    reading = LatentSpace(2, kind="logistic").fit(ByHand().encode(training["image"]), training["label"])
    before, after = (reading.score(ByHand().encode(image)) for image in (asked["image"], found.counterfactual))
    assert torch.allclose(before, after, atol=1e-3)


def test_columns_that_will_not_do_are_named() -> None:
    training = aged(20, 0)
    for method, told in (
        (held("weight"), r"no column weight, .*they have age, grade, label, site"),
        (held(told="site"), "Column site must hold whole numbers"),
        (held(told="age"), "Column age must hold whole numbers"),
    ):
        with pytest.raises(DataError, match=told):
            method.require(training)
    training["columns"]["age"][3] = ""
    with pytest.raises(DataError, match="Column age is empty for 1 of 20"):
        held("age").require(training)
    held("site").require(training)
    with pytest.raises(ConfigError, match="must not name label"):
        held("label")
