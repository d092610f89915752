"""Moves in a code and what they render, with an autoencoder whose code can be computed by hand."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


class ByHand:
    """z = mean brightness of the upper and of the lower half; x_T = what is left; rendering adds both again."""

    def __init__(self) -> None:
        self.network: nn.Module = nn.Linear(1, 1)
        self.modules, self.optimizers = nn.ModuleDict({"network": self.network}), {}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield "autoencoder", {"denoise": batch["image"].mean()}

    def checks(self, image: Tensor) -> dict[str, float]:
        return {"reconstruction_error": 0.0}

    def encode(self, image: Tensor) -> Tensor:
        return torch.stack([image[:, 0, :4].mean((1, 2)), image[:, 0, 4:].mean((1, 2))], 1)

    def encode_stochastic(self, image: Tensor, z: Tensor) -> Tensor:
        return image - self._halves(z)

    def render(self, noise: Tensor, z: Tensor, origin: Tensor | None = None) -> Tensor:
        return noise + self._halves(z)

    def _halves(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(4, 1)[:, None, :, None].expand(-1, 1, 8, 8)


class UpperIsBright(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        z = 20 * image[:, 0, :4].mean((1, 2))
        return torch.stack([-z, z], 1)


def batch(size: int, seed: int, *, grades: int = 2) -> dict[str, Any]:
    """The upper half's brightness rises with the grade; the lower half's is of no matter."""
    random = torch.Generator().manual_seed(seed)
    grade = torch.arange(size) % grades
    image = 0.02 * torch.randn(size, 1, 8, 8, generator=random)
    image[:, :, :4] += (0.3 * (2 * grade / (grades - 1) - 1))[:, None, None, None]
    image[:, :, 4:] += 0.2 * torch.randn(size, 1, 1, 1, generator=random)
    names = [f"p{i}" for i in range(size)]
    return {"image": image, "label": (grade > 0).long(), "grade": grade, "group": names}


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


def aged(size: int, seed: int) -> dict[str, Any]:
    """The lower half is brighter in the old, and the ill are older."""
    told, random = batch(size, seed), torch.Generator().manual_seed(seed)
    age = 50 + 15 * told["label"] + 10 * torch.randn(size, generator=random)
    told["image"][:, :, 4:] += ((age - 60) / 100)[:, None, None, None]
    told["image"] *= 0.4  # no move shall reach the ends of the range
    return told | {"columns": {"age": [f"{years:.1f}" for years in age], "site": ["A", "B"] * (size // 2)}}


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
