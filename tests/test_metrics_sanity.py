"""Randomised classifiers: a gradient notices them, an edge detector does not; and what an evaluation reports of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from test_judging import CPU, dataset
from torch import Tensor, nn
from toy import toy_coin

from cfxai.attribution.gradients import Gradient, InputXGradient
from cfxai.errors import UnsuitableError
from cfxai.metrics.sanity import random_logit, randomised, weight_randomisation
from cfxai.metrics.similarity import rank_correlation
from cfxai.regions.grid import Grid
from cfxai.regions.scores import scores
from cfxai.report import tables, write_sanity
from cfxai.sanity_checks import STAGES, Checked, check, check_attributors

LABELS = torch.tensor([1, 1])


class Edges:
    """Not an explanation: the same for every classifier and every class."""

    def __init__(self, classifier: nn.Module) -> None:
        pass

    def attribute(self, image: Tensor, target: Tensor) -> Tensor:
        kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3)
        return F.conv2d(image, kernel, padding=1)[:, 0]


class Refuses(Edges):
    """Suits only the classifier that it saw first."""

    seen: list[nn.Module] = []

    def __init__(self, classifier: nn.Module) -> None:
        self.seen.append(classifier)
        if classifier is not self.seen[0]:
            raise UnsuitableError("not for this network")


class Backwards(nn.Module):
    """Registers its layers in an order of its own, and has parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.offset = nn.Parameter(torch.arange(4.0))

    def forward(self, image: Tensor) -> Tensor:
        features = self.norm(self.stem(image)).relu().flatten(2).mean(2) + self.offset
        return self.head(features)


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_layers_become_random_from_the_logits_down() -> None:
    torch.manual_seed(0)
    network = Backwards().eval()
    nn.init.normal_(network.norm.weight)
    before, random = state(network), torch.random.get_rng_state()
    found = [(layer, layers, changed(before, state(copy))) for layer, layers, copy in randomised(network, images())]
    head, norm, stem = {"head.weight", "head.bias"}, {"norm.weight"}, {"stem.weight", "stem.bias"}
    assert found == [
        ("head", 1, head),
        ("norm", 2, head | norm),
        ("stem", 3, head | norm | stem),
        ("", 4, head | norm | stem | {"offset"}),
    ]
    assert not changed(before, state(network))
    assert torch.equal(torch.random.get_rng_state(), random), "random numbers elsewhere stay as they are"
    last = [copy for *_, copy in randomised(network, images())][-1]
    assert sorted(last.offset.tolist()) == [0, 1, 2, 3], "what cannot be initialised is shuffled"


def test_stages_are_steps_of_the_same_way_and_follow_the_seed() -> None:
    network = toy_coin().classifier
    every = list(randomised(network, images()))
    few = list(randomised(network, images(), stages=3))
    (whole,) = randomised(network, images(), stages=1)
    assert [layers for _, layers, _ in every] == list(range(1, len(every) + 1))
    assert len(few) == 3
    for layer, layers, copy in (*few, whole):
        same = every[layers - 1]
        assert same[0] == layer
        assert not changed(state(same[2]), state(copy))
    assert whole[1] == len(every)
    (other,) = randomised(network, images(), stages=1, seed=100)
    assert changed(state(whole[2]), state(other[2]))


def test_a_gradient_changes_and_an_edge_detector_does_not() -> None:
    network, image = toy_coin().classifier, images()
    before = state(network)
    *_, gradient = weight_randomisation(lambda c: Gradient(c).attribute, network, image, LABELS)
    stages = list(weight_randomisation(lambda c: Edges(c).attribute, network, image, LABELS, stages=4))
    assert gradient.similarity.spearman.abs().max() < 0.3
    assert gradient.similarity.ssim.max() < 0.5
    assert [float(stage.similarity.spearman.min()) for stage in stages] == pytest.approx([1] * 4)
    assert [float(stage.similarity.ssim.min()) for stage in stages] == pytest.approx([1] * 4)
    assert not changed(before, state(network))


def test_another_class_is_another_question() -> None:
    """Of two opposite logits the signed map turns round; an edge detector does not hear the question."""
    network = toy_coin().classifier
    with torch.no_grad():
        head = network.network.head
        head.weight[0], head.bias[0] = -head.weight[1], -head.bias[1]
    signed = InputXGradient(network).attribute
    other, likeness = random_logit(signed, images(), LABELS, 2)
    assert torch.equal(other, signed(images(), torch.tensor([0, 0])))
    assert likeness.spearman == pytest.approx(-torch.ones(2))
    assert random_logit(Edges(network).attribute, images(), LABELS, 2)[1].spearman == pytest.approx(torch.ones(2))


def test_the_other_class_is_never_the_same() -> None:
    asked: list[Tensor] = []

    def attribute(image: Tensor, target: Tensor) -> Tensor:
        asked.append(target)
        return image[:, 0]

    label = torch.arange(50) % 5
    random_logit(attribute, images(50, 4), label, 5)
    assert (asked[0] != label).all()
    assert set(asked[0].tolist()) == set(range(5))


@pytest.fixture(scope="module")
def checked() -> dict[str, Checked]:
    Refuses.seen.clear()
    calls: list[int] = []
    found = check_attributors(
        {"gradient": Gradient, "edges": Edges, "refuses": Refuses},
        toy_coin().classifier, dataset(), [1, 3, 5], CPU,
        regions=Grid(rows=2, columns=2), between=lambda: calls.append(1),
    )  # fmt: skip
    assert len(calls) == 6
    return found


def test_what_an_evaluation_reports(checked: dict[str, Checked]) -> None:
    assert list(checked) == ["gradient", "edges"], "one that refuses a randomised classifier is left out"
    gradient, edges = (checked[name].numbers for name in ("gradient", "edges"))
    assert gradient["images"] == 3
    with_parameters = [m for m in toy_coin().classifier.modules() if list(m.parameters(recurse=False))]
    assert gradient["randomised"][-1]["layers"] == len(with_parameters)
    assert len(gradient["randomised"]) == STAGES
    assert gradient["randomised"][-1]["spearman"] == gradient["randomised_spearman"]
    assert gradient["randomised_spearman"] < 0.5 < edges["randomised_spearman"]
    assert edges["randomised_regions"] == edges["random_logit_spearman"] == pytest.approx(1)
    assert gradient["max_sensitivity"] > 0
    assert 0 < gradient["infidelity"] < 1 < edges["infidelity"] + 0.5


def test_region_scores_are_compared_before_and_after(checked: dict[str, Checked]) -> None:
    network, data, regions = toy_coin().classifier, dataset(), Grid(rows=2, columns=2)
    tables_: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index in (1, 3, 5):
        image = data.batch([index])["image"]
        ((_, _, random_network),) = randomised(network, image, stages=1)
        for table, which in zip(tables_, (network, random_network), strict=True):
            saliency = Gradient(which).attribute(image, torch.tensor([1]))
            table.append(scores(saliency, regions({"image": image})).share)
    expected = rank_correlation(torch.cat(tables_[0]), torch.cat(tables_[1]))
    assert checked["gradient"].numbers["randomised_regions"] == pytest.approx(expected)
    plain = check(Gradient, network, data, [1], CPU)
    assert plain.numbers["randomised_regions"] is None


def test_what_defines_no_number_is_none() -> None:
    class Nothing(Edges):
        def attribute(self, image: Tensor, target: Tensor) -> Tensor:
            return torch.zeros(len(image), *image.shape[2:])

    found = check(Nothing, toy_coin().classifier, dataset(), [1], CPU).numbers
    assert found["randomised_spearman"] is found["max_sensitivity"] is found["random_logit_ssim"] is None
    assert found["infidelity"] == pytest.approx(1)


def test_of_volumes_one_slice_is_drawn() -> None:
    flat = dataset()
    deep = np.repeat(flat.images[:, :, None], 8, 2)
    truth = np.zeros((len(flat), 8, 8, 8), bool)
    truth[:, 5, 2:4, 2:4] = True
    volumes = replace(flat, images=deep, masks=truth, healthy=None)
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten())
    network = nn.Sequential(pooled, nn.Linear(32, 2))
    found = check(Gradient, network, volumes, [1], CPU, regions=Grid(columns=2))
    assert {picture.shape for picture in found.pictures.values()} == {(8, 8)}
    expected = Gradient(network).attribute(torch.from_numpy(deep[[1]]), torch.tensor([1]))[0, 5]
    np.testing.assert_allclose(found.pictures["~trained"], expected.abs().numpy(), rtol=1e-5)
    assert None not in found.numbers.values()


def test_nothing_to_check() -> None:
    assert check_attributors({}, nn.Identity(), dataset(), [1], CPU) == {}
    assert check_attributors({"edges": Edges}, nn.Identity(), dataset(), [], CPU) == {}


def test_the_picture_and_the_table(checked: dict[str, Checked], tmp_path: Path) -> None:
    pictures = checked["gradient"].pictures
    assert list(pictures)[:2] == ["x", "~trained"]
    assert list(pictures)[-1] == "~another class"
    assert len(pictures) == STAGES + 3
    write_sanity(tmp_path / "sanity.png", {name: one.pictures for name, one in checked.items()})
    with Picture.open(tmp_path / "sanity.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10

    def row(**further: Any) -> dict[str, Any]:
        keys = ("iou", "iou_ci", "dice", "pixel_auprc", "pointing_game", "l1", "threshold")
        return {**dict.fromkeys(keys), **further}

    metrics = {
        "run": "r", "split": "test", "images": 3, "patients": 3, "cf_threshold_rule": "auto", "threshold_rules": [],
        "realism": None, "ceiling": None,
        "explainers": {"coin": row(), **{name: row(sanity=one.numbers) for name, one in checked.items()}},
    }  # fmt: skip
    assert [table.title for table in tables(metrics)][1:] == ["sanity"]
    best, fixed = "highest pooled IoU on validation", "fixed, not chosen from data"
    metrics["threshold_rules"] = [f"coin: {best}", f"gradient: {best}"]
    assert f"Thresholds: {best}, each explainer's own." in str(tables(metrics)[0].caption)
    metrics["threshold_rules"] = [f"coin: {fixed}", f"gradient: {best}", f"edges: {best}"]
    assert f"Threshold of coin: {fixed}.\nThreshold of gradient, edges: {best}." in str(tables(metrics)[0].caption)
    names = ("deletion", "deletion_below_random", "insertion", "insertion_above_random", "road", "seconds_per_image")
    metrics["explainers"]["coin"] |= dict.fromkeys(names, 0.25)
    titles = {table.title: table for table in tables(metrics)}
    assert titles["faithfulness"].row_count == 1
    assert titles["sanity"].row_count == 2
    assert list(titles["sanity"].columns[0].cells) == ["gradient", "edges"]
