"""Flip rate, validity and size of change on hand-made cases."""

import pytest
import torch
from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.metrics.counterfactual import CounterfactualQuality
from cfxai.protocols import Counterfactual, Metric, Result


def result(label: list[int], before: Tensor, after: Tensor | None, change: list[float] | None = None) -> Result:
    """`change` is the brightness added everywhere, in units of [-1, 1]."""
    n = len(label)
    image = torch.zeros(n, 1, 4, 4)
    counterfactual = None
    if after is not None:
        moved = image + torch.tensor(change or [0.0] * n).view(-1, 1, 1, 1)
        counterfactual = Counterfactual(image, moved, torch.zeros(n, dtype=torch.long))
    empty = torch.zeros(n, 4, 4)
    group = tuple(str(i) for i in range(n))
    return Result(image, torch.tensor(label), empty, empty > 0, group, before, None, counterfactual, after)


def two_classes(*abnormal: float) -> Tensor:
    p = torch.tensor(abnormal)
    return torch.stack([1 - p, p], 1)


def test_rates_stand_on_the_images_they_name() -> None:
    metric = CounterfactualQuality()
    assert isinstance(metric, Metric)
    #          abnormal: flipped, kept, missed by f | normal: stays, becomes abnormal, false alarm
    before = two_classes(0.95, 0.90, 0.40, 0.10, 0.20, 0.85)
    after = two_classes(0.05, 0.70, 0.10, 0.10, 0.60, 0.02)
    change = [0.5, 0.1, 0.3, 0.0, 0.2, 0.4]
    metric.update(result([1, 1, 1, 0, 0, 0], before, after, change))
    assert metric.compute() == {
        "flip_rate": 0.5,
        "flip_images": 2.0,
        "counterfactual_validity": pytest.approx(2 / 3),  # the false alarm is above tau, too
        "validity_images": 3.0,
        "l1": pytest.approx((0.5 + 0.1 + 0.3) / 3 / 2),
        "l1_normal": pytest.approx((0.0 + 0.2 + 0.4) / 3 / 2),
        "prediction_kept_on_normal": 0.5,
    }


def test_tau_is_the_threshold_of_both_probability_and_change() -> None:
    batch = result([1, 1], two_classes(0.9, 0.7), two_classes(0.25, 0.1))
    for tau, (validity, images) in {0.8: (0.0, 1.0), 0.6: (0.5, 2.0), 0.5: (1.0, 2.0)}.items():
        metric = CounterfactualQuality(tau=tau)
        metric.update(batch)
        found = metric.compute()
        assert (found["counterfactual_validity"], found["validity_images"]) == (validity, images)


def test_with_several_abnormal_classes_the_flip_is_to_the_target() -> None:
    before = torch.tensor([[0.1, 0.2, 0.7], [0.1, 0.7, 0.2]])
    after = torch.tensor([[0.2, 0.7, 0.1], [0.8, 0.1, 0.1]])  # the first only moved to the other abnormal class
    metric = CounterfactualQuality()
    metric.update(result([2, 1], before, after))
    assert metric.compute()["flip_rate"] == 0.5


def test_attributors_have_no_values() -> None:
    metric = CounterfactualQuality()
    metric.update(result([1, 0], two_classes(0.9, 0.1), None))
    assert set(metric.compute().values()) == {None}


def test_nothing_to_flip_is_none_over_zero_images() -> None:
    metric = CounterfactualQuality()
    metric.update(result([1], two_classes(0.2), two_classes(0.1)))
    found = metric.compute()
    assert (found["flip_rate"], found["flip_images"], found["counterfactual_validity"]) == (None, 0.0, None)


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.5])
def test_tau_out_of_range_is_refused(tau: float) -> None:
    with pytest.raises(ConfigError, match="tau"):
        CounterfactualQuality(tau=tau)
