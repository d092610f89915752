"""Flips in both directions, the oracle's opinion, the way back, and what the change is like."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.methods.adversarial import Adversarial
from cfxai.metrics.both_ways import BothWays
from cfxai.metrics.change import Change, high_frequency_energy, structural_similarity
from cfxai.protocols import Counterfactual, Explainer, Metric, Result


def two_classes(*abnormal: float) -> Tensor:
    p = torch.tensor(abnormal)
    return torch.stack([1 - p, p], 1)


def result(
    label: list[int], target: list[int], before: Tensor, after: Tensor, change: Tensor, returned: Tensor | None = None
) -> Result:
    image = torch.zeros_like(change)
    empty = torch.zeros(len(label), *change.shape[2:])
    cf = Counterfactual(image, image + change, torch.tensor(target))
    group = tuple(f"p{i}" for i in range(len(label)))
    return Result(image, torch.tensor(label), empty, empty > 0, group, before, None, cf, after, returned=returned)


def brightness(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 12, 12).contiguous()


def bright_is_abnormal(image: Tensor) -> Tensor:
    z = image.mean((1, 2, 3)) + 0.25
    return torch.stack([-z, z], 1)


def test_each_direction_counts_the_images_of_its_side_that_the_classifier_calls_so() -> None:
    metric = BothWays()
    assert isinstance(metric, Metric)
    # to normal: flipped, kept, missed before, and a normal image that was to stay
    metric.update(
        result(
            [1, 1, 1, 0], [0, 0, 0, 0],
            two_classes(0.9, 0.9, 0.4, 0.1), two_classes(0.1, 0.8, 0.1, 0.1), brightness(0.2, 0.2, 0.2, 0.1),
        )
    )  # fmt: skip
    # to abnormal: flipped, and a false alarm, which does not count; an abnormal image that was to stay
    metric.update(
        result([0, 0, 1], [1, 1, 1], two_classes(0.1, 0.7, 0.9), two_classes(0.6, 0.9, 0.9), brightness(0.2, 0.2, 0.3))
    )
    found = metric.compute()
    assert found["flip_rate_to_normal"] == 0.5
    assert found["flip_rate_to_abnormal"] == 1.0
    assert found["target_probability"] == pytest.approx((0.9 + 0.2 + 0.9 + 0.6 + 0.9) / 5)
    assert found["identity_l1"] == pytest.approx((0.1 + 0.3) / 2 / 2)
    assert found["oracle_flip_rate"] is None
    assert found["cycle_l1"] is None
    low, high = found["flip_rate_to_normal_ci"]
    assert (low, high) == (0.0, 1.0)


def test_the_oracle_judges_by_itself_and_only_what_it_calls_by_its_label() -> None:
    metric = BothWays(bright_is_abnormal)
    # images are grey, which the oracle calls abnormal; it is convinced by a darker image alone
    after = two_classes(0.1, 0.1, 0.1)
    metric.update(result([1, 1, 1], [0, 0, 0], two_classes(0.9, 0.9, 0.9), after, brightness(-0.5, -0.5, 0.1)))
    metric.update(result([0], [1], two_classes(0.1), two_classes(0.9), brightness(0.5)))  # called abnormal before
    assert metric.compute()["oracle_flip_rate"] == pytest.approx(2 / 3)


def test_the_way_back_is_measured_where_there_is_one() -> None:
    metric = BothWays()
    returned = brightness(0.1, 0.9)
    metric.update(
        result([1, 0], [0, 0], two_classes(0.9, 0.1), two_classes(0.1, 0.1), brightness(0.4, 0.0), returned=returned)
    )
    assert metric.compute()["cycle_l1"] == pytest.approx(0.05)


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(5, 20))
@settings(max_examples=15, deadline=None)
def test_ssim_of_even_images_is_its_luminance_term(a: float, b: float, side: int) -> None:
    images = (torch.full((2, 2, side, side), value, dtype=torch.double) for value in (a, b))
    c = (0.01 * 2) ** 2
    expected = (2 * a * b + c) / (a * a + b * b + c)
    assert structural_similarity(*images).tolist() == pytest.approx([expected] * 2, abs=1e-9)


def test_ssim_tells_the_same_noise_from_other_noise() -> None:
    noise, other = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(structural_similarity(noise, noise)) == pytest.approx(1)
    assert abs(float(structural_similarity(noise, other))) < 0.2


def test_waves_have_their_energy_where_they_are() -> None:
    line = torch.arange(64.0)
    slow, fast = (torch.sin(2 * torch.pi * cycles * line / 64).expand(1, 1, 64, 64) for cycles in (4, 24))
    assert float(high_frequency_energy(slow)) == pytest.approx(0, abs=1e-9)
    assert float(high_frequency_energy(fast)) == pytest.approx(1, abs=1e-9)
    assert float(high_frequency_energy(3 * slow + 4 * fast)) == pytest.approx(16 / 25, abs=1e-6)
    assert high_frequency_energy(torch.zeros(1, 1, 8, 8)).isnan().all()


def test_change_looks_at_images_that_were_to_leave_their_class() -> None:
    change = torch.zeros(3, 1, 12, 12)
    change[0, 0, :6] = 0.5
    change[2] = 0.7
    metric = Change()
    metric.update(result([1, 1, 0], [0, 0, 0], two_classes(0.9, 0.9, 0.1), two_classes(0.1, 0.9, 0.1), change))
    found = metric.compute()
    assert found["sparsity"] == pytest.approx((0.5 + 1) / 2)
    assert 0 < found["high_frequency_energy"] < 0.2  # of the first alone: the second has no change
    assert found["ssim"] < 1
    volumes = Change()
    empty = torch.zeros(1, 1, 8, 8, 8)
    volumes.update(result([1], [0], two_classes(0.9), two_classes(0.1), empty))
    assert volumes.compute()["ssim"] == pytest.approx(1)


def test_the_adversarial_control_flips_within_its_radius_and_leaves_the_classifier_as_it_was() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).train()
    image = 0.1 * torch.randn(6, 1, 8, 8)
    before = classifier(image).argmax(1)
    control = Adversarial(classifier, radius=0.2)
    assert isinstance(control, Explainer)
    found = control.generate(image, 1 - before)
    assert (classifier(found.counterfactual).argmax(1) == 1 - before).all()
    assert found.difference.max() <= 0.2 + 1e-6
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    # of a linear classifier the best perturbation is known: the whole radius along the gradient's sign
    slope = (classifier[1].weight[1] - classifier[1].weight[0]).view(1, 1, 8, 8) * (1 - 2 * before).view(-1, 1, 1, 1)
    assert torch.allclose(found.counterfactual, (image + 0.4 * slope.sign()).clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("settings", [{"radius": 0}, {"radius": 2}, {"steps": 0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"control\.(radius|steps)"):
        Adversarial(nn.Identity(), **settings)
