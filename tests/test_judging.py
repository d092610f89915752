"""The one path to a number: explain, choose a threshold on validation, mask, measure."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cfxai.data.dataset import Dataset
from cfxai.data.export import Origin
from cfxai.errors import DataError
from cfxai.judging import LesionFree, classifier_quality, explanations, judge, maps
from cfxai.masks.threshold import Threshold
from cfxai.metrics.counterfactual import CounterfactualQuality
from cfxai.metrics.segmentation import Segmentation
from cfxai.protocols import Counterfactual
from cfxai.selection import shown_cases, spaced
from cfxai.settings import Settings
from cfxai.thresholds import choose_threshold, extractors

CPU = torch.device("cpu")
LESION = 0.8


def dataset(*, patients: int = 5, masks: bool = True, labels: Any = None) -> Dataset:
    """Four images a patient, dark; every second one has a bright square of four pixels, its lesion."""
    n = 4 * patients
    label = np.arange(n) % 2 if labels is None else np.full(n, labels)
    healthy = np.random.default_rng(0).uniform(-1, -0.9, (n, 1, 8, 8)).astype(np.float32)
    truth = np.zeros((n, 8, 8), bool)
    truth[label == 1, 2:4, 2:4] = True
    images = np.where(truth[:, None], np.float32(LESION), healthy)
    return Dataset(
        images=images,
        labels=label.astype(np.int64),
        masks=truth if masks else None,
        healthy=healthy,
        ids=[f"image-{i}" for i in range(n)],
        groups=[f"patient-{i // 4}" for i in range(n)],
        origin=Origin(["a"] * n, list(range(n)), {}),
    )


class Bright(torch.nn.Module):
    """Abnormal when a pixel is bright."""

    def forward(self, image: Tensor) -> Tensor:
        z = 20 * image.flatten(1).amax(1)
        return torch.stack([torch.zeros_like(z), z], 1)


class Darken:
    """A perfect counterfactual, but for a change of `slip` everywhere; remembers what it was asked for."""

    def __init__(self, slip: float = 0.0) -> None:
        self.slip = slip
        self.asked: list[Tensor] = []

    def generate(self, image: Tensor, target: Tensor) -> Counterfactual:
        self.asked.append(target)
        return Counterfactual(image, torch.where(image > 0, -1.0, image + 2 * self.slip), target)


class Brightness:
    """Saliency is brightness."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def attribute(self, image: Tensor, target: Tensor) -> Tensor:
        self.asked.append(target)
        return (image + 1).mean(1)


def judged(explainer: Any, data: Dataset, cuts: Any = None, **settings: Any) -> Any:
    return judge(
        explainer, Bright(), data, CPU,
        extractors=cuts or {"fixed": Threshold(threshold=0.25, normalise="none")},
        metrics=lambda: {"s": Segmentation(resamples=20, seed=0), "c": CounterfactualQuality(tau=0.8)},
        **({"indices": range(len(data)), "batch_size": 3} | settings),
    )  # fmt: skip


def test_explainers_are_asked_for_normal_and_attributors_about_the_label() -> None:
    data, explainer, attributor = dataset(), Darken(), Brightness()
    for asked in (explainer, attributor):
        assert len(list(maps(asked, data, [1, 3, 5], CPU, 2))) == 2
    assert torch.cat(explainer.asked).tolist() == [0, 0, 0]
    assert torch.cat(attributor.asked).tolist() == [1, 1, 1]


def test_a_perfect_counterfactual_is_perfect() -> None:
    found = judged(Darken(), dataset(), keep_masks=True)
    assert (found.metrics["iou"], found.metrics["dice"], found.metrics["flip_rate"]) == (1, 1, 1)
    assert found.metrics["normal_changed_area"] == 0
    assert found.metrics["threshold"] == 0.25
    assert (found.masks == dataset().masks).all()


def test_the_ceiling_is_the_lesion_free_image() -> None:
    found = judged(LesionFree(), dataset())
    assert found.metrics["iou"] == 1
    assert found.metrics["counterfactual_validity"] == 1


def test_each_extractor_has_its_block_and_the_first_is_the_main_one() -> None:
    cuts = {name: Threshold(threshold=t, normalise="none") for name, t in (("auto", 0.5), ("fixed", 1.0))}
    found = judged(Darken(), dataset(), cuts).metrics
    assert (found["iou"], found["threshold"]) == (found["auto"]["iou"], 0.5) == (1, 0.5)
    assert (found["fixed"]["iou"], found["fixed"]["threshold"]) == (0, 1.0)


def test_batches_and_the_pictures_asked_for_do_not_change_the_numbers() -> None:
    data = dataset()
    one, all_ = judged(Darken(0.1), data, batch_size=1), judged(Darken(0.1), data, batch_size=64, show=[3, 4])
    strip = lambda m: {k: v for k, v in m.items() if k != "seconds_per_image"}  # noqa: E731
    assert strip(one.metrics) == strip(all_.metrics)
    assert sorted(all_.shown) == [3, 4]
    assert all_.shown[3].group == ("patient-0",)
    assert torch.equal(all_.shown[3].image[0], torch.from_numpy(data.images[3]))


def test_ticks_count_images() -> None:
    ticks: list[int] = []
    judged(Darken(), dataset(), tick=ticks.append, indices=[0, 1, 5, 9])
    assert ticks == [3, 1]
    ticks.clear()
    both = Darken()
    both.both_ways = True  # type: ignore[attr-defined]
    judged(both, dataset(), tick=ticks.append, indices=[0, 1, 5, 9])
    assert (ticks, explanations(both), explanations(Darken())) == ([3, 1] * 2, 2, 1)


def test_with_masks_the_threshold_of_highest_iou_is_chosen() -> None:
    extract = Threshold(threshold=0.0, normalise="none")
    chosen, rule = choose_threshold(Darken(0.1), extract, dataset(), CPU, batch_size=4, most=100)
    assert 0.1 <= chosen < 0.9
    assert rule == "highest pooled IoU on validation"
    assert judged(Darken(0.1), dataset(), {"a": Threshold(threshold=chosen, normalise="none")}).metrics["iou"] == 1


def test_without_masks_a_share_of_pixels_passes() -> None:
    class Noise:
        def generate(self, image: Tensor, target: Tensor) -> Counterfactual:
            change = torch.rand(image.shape, generator=torch.Generator().manual_seed(len(image)))
            return Counterfactual(image, image - 2 * change, target)

    data, extract = dataset(masks=False), Threshold(threshold=0.0, normalise="none")
    chosen, rule = choose_threshold(Noise(), extract, data, CPU, batch_size=10, most=100)
    assert rule.startswith("1.0% of the pixels of normal validation images")
    assert chosen == pytest.approx(0.99, abs=0.02)
    chosen, rule = choose_threshold(Brightness(), Threshold(threshold=0.0), data, CPU, batch_size=4, most=100)
    assert rule.startswith("2.5% of the pixels of abnormal validation images")
    assert chosen == 1.0


def test_a_split_without_what_the_rule_needs_is_named() -> None:
    extract = Threshold(threshold=0.0)
    with pytest.raises(DataError, match="no normal images"):
        choose_threshold(Darken(), extract, dataset(masks=False, labels=1), CPU, batch_size=4, most=10)
    with pytest.raises(DataError, match="no abnormal images"):
        choose_threshold(Brightness(), extract, dataset(masks=False, labels=0), CPU, batch_size=4, most=10)


@pytest.mark.parametrize(
    ("asked", "counterfactual", "saliency"),
    [
        ({}, ("auto", 0.25), ("auto", 0.975)),
        ({"cf_threshold": 0.4}, ("fixed", 0.4), ("fixed", 0.975)),
        ({"cf_threshold": 0.4, "saliency_threshold": 0.5}, ("fixed", 0.4), ("fixed", 0.5)),
        ({"saliency_threshold": 0.5}, ("auto", 0.25), ("fixed", 0.5)),
    ],
)
def test_which_threshold_is_reported_first(asked: Any, counterfactual: Any, saliency: Any) -> None:
    settings = Settings(**asked)
    for explainer, (main, fixed) in ((Darken(), counterfactual), (Brightness(), saliency)):
        cuts, rule = extractors(explainer, settings, dataset(), CPU)
        assert next(iter(cuts)) == main
        assert cuts["fixed"].threshold == fixed
        assert set(cuts) == {"auto", "fixed"}
        assert {cut.normalise for cut in cuts.values()} == {"none" if isinstance(explainer, Darken) else "minmax"}
        assert (rule == "fixed, not chosen from data") == (main == "fixed")


def test_classifier_quality() -> None:
    found = classifier_quality(Bright(), dataset(), range(20), CPU, 7)
    assert (found["auroc"], found["accuracy"]) == (1.0, 1.0)
    assert found["confusion"] == [[10, 0], [0, 10]]
    assert found["cross_entropy"] < 1e-6


def test_spaced_keeps_both_ends_and_its_number() -> None:
    assert spaced(range(5), 9) == [0, 1, 2, 3, 4]
    assert spaced(np.arange(100, 200), 4) == [100, 133, 166, 199]
    assert spaced([], 4) == spaced([1, 2], 0) == []


def test_shown_cases_are_of_different_patients_and_mostly_abnormal() -> None:
    data = dataset(patients=8)
    chosen = shown_cases(data, range(len(data)), 8)
    assert [int(data.labels[i]) for i in chosen] == [1] * 6 + [0] * 2
    assert len({data.groups[i] for i in chosen[:6]}) == 6
    assert shown_cases(data, range(len(data)), 0) == []
    assert len(shown_cases(data, [1, 3], 8)) == 2, "of one patient, when there are no more"
    assert shown_cases(data, [], 8) == []


def test_of_a_slab_the_middle_slice_is_judged() -> None:
    """Its neighbours are context: what changes there, or does not, is none of the mask's business."""
    flat = dataset()
    noise = np.random.default_rng(1).uniform(-1, 1, (2, *flat.images.shape)).astype(np.float32)
    slab = replace(flat, images=np.concatenate([noise[0], flat.images, noise[1]], 1), healthy=None, channel=1)

    class Healed:
        def generate(self, image: Tensor, target: Tensor) -> Counterfactual:
            healed = image.clone()
            healed[:, 0], healed[:, 1] = 0, image[:, 1].clamp(max=-0.9)
            return Counterfactual(image, healed, target)

    found = torch.cat([saliency for _, _, saliency, _, _ in maps(Healed(), slab, range(len(slab)), CPU, 3)])
    expected = (flat.images[:, 0] - np.minimum(flat.images[:, 0], np.float32(-0.9))) / 2
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
