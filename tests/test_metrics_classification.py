"""Classifier quality against formulas written out and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from cfxai.errors import DataError
from cfxai.metrics.classification import ClassifierQuality
from cfxai.protocols import Metric, Result


def measured(probability: Tensor, label: Tensor, batch: int = 5) -> dict:
    metric = ClassifierQuality()
    for p, y in zip(probability.split(batch), label.split(batch), strict=True):
        empty = torch.zeros(len(y), 2, 2)
        metric.update(Result(empty[:, None], y, empty, empty > 0, tuple("a" * len(y)), p))
    assert isinstance(metric, Metric)
    return metric.compute()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
def test_against_the_definitions(seed: int, classes: int) -> None:
    random = torch.Generator().manual_seed(seed)
    probability = torch.randn((23, classes), generator=random).mul(2).softmax(1)
    label = torch.randint(classes, (23,), generator=random)
    label[:2] = torch.tensor([0, 1])
    found = measured(probability, label)

    score, abnormal = (1 - probability[:, 0].double()).numpy(), (label > 0).numpy()
    wins = [(a > b) + 0.5 * (a == b) for a in score[abnormal] for b in score[~abnormal]]
    assert found["auroc"] == pytest.approx(np.mean(wins))
    assert found["accuracy"] == pytest.approx(float((probability.argmax(1) == label).float().mean()))
    order = np.argsort(-score)
    precisions = [abnormal[order][: k + 1].mean() for k in range(23) if abnormal[order][k]]
    assert found["auprc"] == pytest.approx(np.mean(precisions))
    squared = sum((probability[i, k] - float(label[i] == k)) ** 2 for i in range(23) for k in range(classes))
    assert found["brier"] == pytest.approx(float(squared) / 46, rel=1e-5)
    expected = multiclass_calibration_error(probability, label, classes, n_bins=15, norm="l1")
    assert found["ece"] == pytest.approx(float(expected), abs=1e-6)
    for actual in range(classes):
        for predicted in range(classes):
            count = sum((y, p) == (actual, predicted) for y, p in zip(label, probability.argmax(1), strict=True))
            assert found["confusion"][actual][predicted] == count


def test_of_several_classes_also_the_mean_of_one_against_the_rest() -> None:
    random = torch.Generator().manual_seed(0)
    probability, label = torch.randn((60, 3), generator=random).softmax(1), torch.randint(3, (60,), generator=random)
    found = measured(probability, label)
    sides = [(label == k, probability[:, k]) for k in range(3)]
    assert found["auroc_macro"] == pytest.approx(np.mean([roc_auc_score(side, p) for side, p in sides]))
    assert found["auprc_macro"] == pytest.approx(np.mean([average_precision_score(side, p) for side, p in sides]))
    assert "auroc_macro" not in measured(probability[:, :2].softmax(1), label.clamp(max=1))


def test_very_confident_predictions_still_rank() -> None:
    logits = torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 25.0], [25.0, 0.0]])
    assert measured(logits.softmax(1), torch.tensor([1, 1, 1, 0]))["auroc"] == 1.0
    assert measured(logits.softmax(1), torch.tensor([0, 0, 1, 0]))["auroc"] == 1.0


def test_one_class_has_no_auroc() -> None:
    found = measured(torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.tensor([1, 1]))
    assert found["auroc"] is None
    assert found["auprc"] is None
    assert found["accuracy"] == 0.5


def test_without_images_nothing_is_known() -> None:
    assert set(ClassifierQuality().compute().values()) == {None}


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match="label is 3, but the classifier has 2 classes"):
        measured(torch.full((2, 2), 0.5), torch.tensor([0, 3]))
