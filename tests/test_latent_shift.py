"""Moves in a code and what they render, with an autoencoder whose code can be computed by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_latents import ByHand, UpperIsBright, batch

from cfxai.errors import ConfigError, DataError
from cfxai.latents.latent_space import LatentSpace
from cfxai.methods.latent_shift import LatentShift
from cfxai.protocols import (
    ChecksItself,
    Encodes,
    Explainer,
    Fitted,
    Graded,
    Method,
    goes_both_ways,
)


def shift(kind: str = "logistic", classes: int = 2, **settings: Any) -> LatentShift:
    method = LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2, classes, kind=kind), **settings)
    method.fit([batch(40, 0, grades=classes), batch(40, 1, grades=classes)])
    return method


def test_it_keeps_its_promises() -> None:
    method = shift()
    for promise in (Method, Explainer, Fitted, Graded, Encodes, ChecksItself):
        assert isinstance(method, promise)
    assert goes_both_ways(method)
    assert set(method.modules) == {"network", "space"}


@pytest.mark.parametrize("direction", ["covariance", "weight", "published"])
def test_an_image_goes_where_it_was_asked_to_and_keeps_what_is_of_no_matter(direction: str) -> None:
    method = shift(direction=direction, strongest=1.0)
    told = batch(8, 2)
    image, target = told["image"], 1 - told["label"]
    found = method.generate(image, target)
    assert (UpperIsBright()(found.counterfactual).argmax(1) == target).all()
    assert (found.extras["reencoded_grade"] == target).all()
    expected = method.space.typical[target]
    assert torch.allclose(found.extras["reencoded_score"], expected, rtol=1e-3)
    assert found.difference[:, 4:].mean() < 0.3 * found.difference[:, :4].mean()
    method.depth = 0.0
    again = method.generate(image, told["label"])  # there already
    assert torch.allclose(again.counterfactual, image, atol=1e-5)
    assert (again.extras["move"] < 1e-3).all()
    at_the_boundary = method.generate(image, target)
    assert (at_the_boundary.extras["reencoded_score"].abs() < 0.01 * expected.abs()).all()


def test_changes_are_verified_as_long_as_the_head_sees_the_target() -> None:
    """What is taken back in the lower half is of no matter; in both halves, all would be as before."""
    halves: list[slice] = []

    def take_back(image: Tensor, rendered: Tensor, target: Tensor, classifier: nn.Module) -> Tensor:
        verified = rendered.clone()
        for half in halves:
            verified[:, :, half] = image[:, :, half]
        return verified

    method, told = shift(verify=take_back, strongest=1.0), batch(8, 2)
    image, target = told["image"], 1 - told["label"]
    rendered = method.generate(image, target).counterfactual
    halves.append(slice(4, 8))
    found = method.generate(image, target)
    assert torch.equal(found.counterfactual[:, :, 4:], image[:, :, 4:])
    assert torch.equal(found.counterfactual[:, :, :4], rendered[:, :, :4])
    assert (found.extras["reencoded_grade"] == target).all()
    halves.append(slice(0, 4))
    assert torch.equal(method.generate(image, target).counterfactual, rendered)


def test_beyond_the_typical_go_only_images_of_another_class() -> None:
    method, told = shift(depth=3.0), batch(8, 2)
    target = 1 - told["label"]
    deep = method.generate(told["image"], target).extras["reencoded_score"]
    assert torch.allclose(deep, 3 * method.space.typical[target], rtol=1e-3)
    already, before = (
        method.generate(told["image"], told["label"]),
        method.space.score(method.autoencoder.encode(told["image"])),
    )
    sign = (2 * told["label"] - 1).float()
    typical = sign * method.space.typical[told["label"]]
    assert torch.allclose(
        sign * already.extras["reencoded_score"], torch.maximum(sign * before[:, 0], typical), rtol=1e-3
    )


def test_the_head_stands_for_the_classifier_or_for_labels() -> None:
    odd = batch(60, 3)
    odd["label"] = 1 - odd["label"]
    for told, expected in (("classifier", odd["label"] == 0), ("label", odd["label"] == 1)):
        method = LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2, kind="logistic"), told=told)
        method.fit([odd])
        assert ((method.generate(odd["image"], odd["label"]).extras["grade"] == 1) == expected).all()


def test_a_classifier_that_never_calls_a_class_cannot_be_stood_for() -> None:
    dark = batch(20, 3)
    dark["image"] -= 0.6
    with pytest.raises(DataError, match=r"calls none of the 20 training images class 1.*train it longer"):
        LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2, kind="logistic")).fit([dark])


class Timid(ByHand):
    """Renders a third of what it is asked for."""

    def render(self, noise: Tensor, z: Tensor, origin: Tensor | None = None) -> Tensor:
        assert origin is not None
        return super().render(noise, origin + (z - origin) / 3)


def test_a_timid_rendering_is_strengthened_as_far_as_it_must_and_no_further() -> None:
    told = batch(12, 7)
    target = 1 - told["label"]
    for strongest, flips in ((1.0, False), (6.0, True)):
        method = LatentShift(UpperIsBright(), Timid(), space=LatentSpace(2, kind="logistic"), strongest=strongest)
        method.fit([batch(40, 0)])
        found = method.generate(told["image"], target)
        assert ((UpperIsBright()(found.counterfactual).argmax(1) == target) == flips).all()
    plain = (method.autoencoder.encode(found.counterfactual) - method.autoencoder.encode(told["image"]))[:, 0].abs()
    assert (plain < 1.25 * 0.36).all()  # the boundary is 0.3 away, give or take the noise
    with pytest.raises(ConfigError, match="strongest"):
        LatentShift(UpperIsBright(), Timid(), space=LatentSpace(2), strongest=0.5)


def test_what_no_strength_helps_stays_as_it_is_rendered() -> None:
    """Or is made as strong as the classifier needs, where the head never agrees."""
    told = batch(12, 7)
    target = 1 - told["label"]
    method = LatentShift(UpperIsBright(), Timid(), space=LatentSpace(2, kind="logistic"))
    method.fit([batch(40, 0)])
    agreed = method.generate(told["image"], target).counterfactual
    method.space.predicted = lambda z: told["label"][:1].expand(len(z))  # type: ignore[method-assign]
    alike = told["label"] == told["label"][0]  # whose target the head now never reads
    found = method.generate(told["image"][alike], target[alike])
    assert torch.allclose(found.counterfactual, agreed[alike], atol=1e-6)
    method.classifier = Resolute(told["label"][0])
    timid = method.generate(told["image"][alike], target[alike])
    method.strengths = [1.0]
    assert torch.equal(timid.counterfactual, method.generate(told["image"][alike], target[alike]).counterfactual)
    assert (timid.difference.flatten(1).amax(1) < found.difference.flatten(1).amax(1)).all()


class Resolute(nn.Module):
    """Calls every image the same."""

    def __init__(self, label: Tensor) -> None:
        super().__init__()
        self.label = int(label)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(image),), self.label), 2).float()


def test_a_grade_that_the_classifier_does_not_see_gives_way_to_the_next() -> None:
    told = batch(12, 9, grades=4)
    normal, abnormal = told["image"][told["grade"] == 0], torch.ones(3, dtype=torch.long)
    method = shift("ordinal", 4, told="grade", strongest=1.0)
    found = method.generate(normal, abnormal)
    assert (UpperIsBright()(found.counterfactual).argmax(1) == 1).all()  # which it calls grades 2 and 3
    assert (found.extras["reencoded_grade"] == 2).all()
    seen = told["image"][told["grade"] == 1]
    assert (method.generate(seen, 2 * abnormal).extras["reencoded_grade"] == 2).all()
    assert (method.generate(told["image"], torch.zeros(12, dtype=torch.long)).extras["reencoded_grade"] == 0).all()


def test_what_a_column_says_is_no_matter_of_the_classifier() -> None:
    training, told = batch(80, 0, grades=4), batch(12, 9, grades=4)
    training["columns"] = {"stage": training["grade"].tolist()}
    method = LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2, 4, kind="ordinal"), told="stage")
    method.fit([training])
    found = method.generate(told["image"][told["grade"] == 0], torch.ones(3, dtype=torch.long))
    assert (found.extras["reencoded_grade"] == 1).all()
    assert (UpperIsBright()(found.counterfactual).argmax(1) == 0).all()


def test_a_sweep_rises_with_the_grade_and_inverts_once() -> None:
    method = shift("ordinal", 4, told="grade")
    image = batch(6, 4, grades=4)["image"]
    levels = method.levels(7)
    assert (levels[0], levels[-1]) == (0, 3)
    found = method.sweep(image, levels)
    assert found.shape == (7, *image.shape)
    upper = found[:, :, 0, :4].mean((2, 3))
    assert (upper.diff(dim=0) > 0).all()
    assert torch.allclose(method.severity(found[3]), levels[3].expand(6), atol=0.02)
    with pytest.raises(ConfigError, match="outside the trained range"):
        method.sweep(image, torch.tensor([4.0]))


def test_without_grades_a_sweep_goes_from_typically_normal_to_typically_abnormal() -> None:
    method = shift()
    told = batch(30, 5)
    levels = method.levels(3)
    assert levels.tolist() == [0, 0.5, 1]
    for images, level in zip(method.sweep(told["image"], levels), levels, strict=True):
        assert torch.allclose(method.severity(images), level.expand(30), atol=1e-3)
    found = method.severity(told["image"])
    assert abs(found[told["label"] == 0].median()) < 0.05
    assert abs(found[told["label"] == 1].median() - 1) < 0.05


def test_a_sweep_of_timid_renderings_is_corrected_to_the_level_that_was_asked_for() -> None:
    told = batch(9, 8, grades=4)
    for corrections, off in ((0, 0.3), (3, 0.1)):
        space = LatentSpace(2, 4, kind="ordinal")
        method = LatentShift(UpperIsBright(), Timid(), space=space, told="grade", corrections=corrections)
        method.fit([batch(80, 0, grades=4)])
        levels = method.levels(4)
        found = torch.stack([method.severity(images) for images in method.sweep(told["image"], levels)])
        assert (((found - levels[:, None]).abs() > off).any()) == (corrections == 0)
    with pytest.raises(ConfigError, match="corrections"):
        LatentShift(UpperIsBright(), Timid(), space=LatentSpace(2), corrections=-1)


def test_grades_that_are_not_there_and_values_out_of_range_are_refused() -> None:
    method = LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2), told="grade")
    plain = {name: value for name, value in batch(20, 6).items() if name != "grade"}
    with pytest.raises(DataError, match=r"no column grade.*they have label\)"):
        method.fit([plain])
    with pytest.raises(ConfigError, match="depth"):
        LatentShift(UpperIsBright(), ByHand(), space=LatentSpace(2), depth=-1)
    with pytest.raises(ConfigError, match="not fitted"):
        method.generate(plain["image"], torch.zeros(20, dtype=torch.long))


def three_classes(size: int, seed: int) -> dict[str, Any]:
    """Bright above, bright below, or neither."""
    label = torch.arange(size) % 3
    image = 0.05 * torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.3
    image[label == 1, :, :4] += 0.6
    image[label == 2, :, 4:] += 0.6
    return {"image": image, "label": label, "group": [f"p{i}" for i in range(size)]}


def test_classes_without_order_are_each_reached() -> None:
    space = LatentSpace(2, 3, kind="multinomial")
    method = LatentShift(UpperIsBright(), ByHand(), space=space, told="label", strongest=1.0)
    method.fit([three_classes(60, 0)])
    told = three_classes(12, 1)
    for shift in range(3):
        target = (told["label"] + shift) % 3
        found = method.generate(told["image"], target)
        assert found.extras["score"].shape == found.extras["reencoded_score"].shape == (12, 3)
        assert (found.extras["reencoded_grade"] == target).all()
    with pytest.raises(ConfigError, match="no order"):
        method.sweep(told["image"], method.levels(3))
