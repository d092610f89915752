"""Segmentation metrics against slow counts, one pixel at a time."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from cfxai.metrics import segmentation
from cfxai.metrics.segmentation import Segmentation
from cfxai.protocols import Metric, Result


def result(saliency: Tensor, mask: Tensor, truth: Tensor | None, label: list[int], group: list[str]) -> Result:
    n = len(label)
    probability = torch.full((n, 2), 0.5)
    image = torch.zeros(n, 1, *saliency.shape[1:])
    return Result(image, torch.tensor(label), saliency, mask, tuple(group), probability, truth)


def random_result(seed: int, n: int = 8, size: tuple[int, ...] = (6, 5), truth: bool = True) -> Result:
    random = np.random.default_rng(seed)
    saliency = torch.from_numpy(random.random((n, *size), dtype=np.float32))
    mask = torch.from_numpy(random.random((n, *size)) < random.random())
    lesion = torch.from_numpy(random.random((n, *size)) < random.random() * 0.5)
    label = random.integers(0, 2, n)
    return result(saliency, mask, lesion if truth else None, label.tolist(), [f"p{i // 2}" for i in range(n)])


def measured(*results: Result, **options: Any) -> dict[str, Any]:
    metric = Segmentation(**options)
    for one in results:
        metric.update(one)
    return metric.compute()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_counts_are_those_of_a_slow_loop(seed: int) -> None:
    batches = [random_result(seed), random_result(seed + 1, n=3)]
    tp = fp = fn = 0
    per_image, changed = [], []
    for batch in batches:
        for i, label in enumerate(batch.label.tolist()):
            if label == 0:
                changed.append(sum(batch.mask[i].flatten().tolist()) / 30)
                continue
            pairs = list(zip(batch.mask[i].flatten().tolist(), batch.truth[i].flatten().tolist(), strict=True))
            t, p, n = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
            tp, fp, fn = tp + t, fp + p, fn + n
            per_image += [t / (t + p + n)] if t + p + n else []
    found = measured(*batches)
    expected = {
        "iou": (tp, tp + fp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "iou_per_image": (sum(per_image), len(per_image)),
        "normal_changed_area": (sum(changed), len(changed)),
    }
    for name, (part, whole) in expected.items():
        assert found[name] == (pytest.approx(part / whole, rel=1e-6) if whole else None), name


def test_average_precision_is_over_the_pixels_of_abnormal_images() -> None:
    batch = random_result(3)
    abnormal = batch.label > 0
    expected = average_precision_score(batch.truth[abnormal].flatten(), batch.saliency[abnormal].flatten())
    assert measured(batch)["pixel_auprc"] == pytest.approx(expected)


def test_average_precision_samples_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.zeros(1, 100, 100, dtype=torch.bool)
    truth[:, 30:60, 30:60] = True
    saliency = truth * 0.2 + torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    batch = result(saliency, saliency > 1, truth, [1], ["a"])
    whole = measured(batch)["pixel_auprc"]
    monkeypatch.setattr(segmentation, "PIXELS_PER_IMAGE", 5000)
    sampled = measured(batch)["pixel_auprc"]
    assert sampled == measured(batch)["pixel_auprc"]
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.05)


def test_pointing_game() -> None:
    truth = torch.zeros(5, 4, 4, dtype=torch.bool)
    truth[:4, :2, :2] = True  # the last is abnormal without a lesion mask: nothing to point at
    saliency = torch.zeros(5, 4, 4)
    saliency[0, 0, 1] = saliency[1, 3, 3] = 1.0  # a hit, a miss
    saliency[2] = 0.3  # constant: a miss
    saliency[3, 1, 1:4] = 1.0  # one of three brightest pixels in the lesion
    batch = result(saliency, saliency > 0.5, truth, [1] * 5, list("abcde"))
    assert measured(batch)["pointing_game"] == pytest.approx((1 + 0 + 0 + 1 / 3) / 4)


def test_bootstrap_resamples_patients_not_images() -> None:
    batch = random_result(11, n=40, size=(4, 4))
    batch = result(batch.saliency, batch.mask, batch.truth, [1] * 40, [f"p{i // 8}" for i in range(40)])
    low, high = measured(batch)["iou_ci"]

    overlap: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for i, group in enumerate(batch.group):
        mask, truth = batch.mask[i].numpy(), batch.truth[i].numpy()
        overlap[group] += [(mask & truth).sum(), (mask | truth).sum()]
    random, patients = np.random.default_rng(99), list(overlap.values())
    draws = []
    for _ in range(20000):
        inside, union = sum(patients[k] for k in random.integers(0, len(patients), len(patients)))
        draws.append(inside / union)
    assert [low, high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.01)
    assert low < measured(batch)["iou"] < high
    assert measured(batch)["iou_ci"] == [low, high]


def test_one_patient_has_no_interval() -> None:
    batch = random_result(0)
    assert measured(result(batch.saliency, batch.mask, batch.truth, [1] * 8, ["a"] * 8))["iou_ci"] is None


def test_without_truth_only_the_changed_area_of_normal_images_is_known() -> None:
    found = measured(random_result(5, truth=False))
    assert [name for name, value in found.items() if value is not None] == ["normal_changed_area"]
    assert set(measured().values()) == {None}


def test_an_abnormal_image_without_lesion_pixels_counts_its_false_positives() -> None:
    truth = torch.zeros(2, 2, 2, dtype=torch.bool)
    truth[0] = True
    mask = torch.ones_like(truth)
    found = measured(result(mask.float(), mask, truth, [1, 1], ["a", "b"]))
    assert (found["iou"], found["precision"], found["recall"], found["iou_per_image"]) == (0.5, 0.5, 1.0, 0.5)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), split=st.integers(1, 11))
def test_cases_are_those_of_whole_volumes(seed: int, split: int) -> None:
    """Twelve slices of three volumes, in any batches, against the stacked volumes."""
    slices = random_result(seed, n=12, size=(4, 3))
    volume = [f"scan-{i % 3}" for i in range(12)]
    size = {"scan-0": 2.5, "scan-1": 0.5, "scan-2": None}
    batches = []
    for chosen in (slice(0, split), slice(split, 12)):
        part = result(
            *(x[chosen] for x in (slices.saliency, slices.mask, slices.truth)),
            slices.label[chosen].tolist(),
            list(slices.group[chosen]),
        )
        names = tuple(volume[chosen])
        batches.append(replace(part, case=names, voxel_mm3=tuple(size[name] for name in names)))
    rows = {row["case"]: row for row in measured(*batches)["cases"]}
    assert list(rows) == ["scan-0", "scan-1", "scan-2"]
    ious = []
    for k, (name, row) in enumerate(rows.items()):
        mask, truth = slices.mask[k::3].numpy(), slices.truth[k::3].numpy()
        union, abnormal = (mask | truth).sum(), int(slices.label[k::3].max())
        iou = (mask & truth).sum() / union if union else None
        assert (row["label"], row["images"]) == (abnormal, 4)
        assert row["iou"] == (None if iou is None else pytest.approx(iou))
        assert row["dice"] == (
            None if iou is None else pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        )
        for key, volume_of in (("lesion_mm3", truth), ("found_mm3", mask)):
            assert row[key] == (None if size[name] is None else pytest.approx(volume_of.sum() * size[name]))
        ious += [iou] if abnormal and iou is not None else []
    assert measured(*batches)["iou_per_case"] == (pytest.approx(np.mean(ious)) if ious else None)


def test_without_known_volumes_a_case_is_a_patient() -> None:
    rows = measured(random_result(1))["cases"]
    assert [(row["case"], row["images"], row["lesion_mm3"]) for row in rows] == [(f"p{k}", 2, None) for k in range(4)]


def test_volumes_and_batches_do_not_change_the_result() -> None:
    flat = random_result(8, size=(4, 3, 2))
    square = result(
        flat.saliency.reshape(8, 4, 6),
        flat.mask.reshape(8, 4, 6),
        flat.truth.reshape(8, 4, 6),
        flat.label.tolist(),
        list(flat.group),
    )
    assert isinstance(Segmentation(), Metric)
    assert measured(flat) == measured(square)
