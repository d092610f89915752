"""Which changes of a counterfactual are verified, and which undone, by a classifier that minds one place only."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from test_cyclegan import toy_cyclegan
from torch import Tensor, nn
from toy import toy_batch, toy_coin
from toy_translation import Bright

from cfxai.errors import ConfigError
from cfxai.methods.hide_and_seek import HideAndSeek
from cfxai.methods.optimise import Optimise


class Minds(nn.Module):
    """Calls an image abnormal by the mean of its upper left quarter; sharper with `slope`."""

    def __init__(self, slope: float = 20.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, image: Tensor) -> Tensor:
        evidence = self.slope * (image[..., :8, :8].flatten(1).mean(1) + 0.9)
        return torch.stack([torch.zeros_like(evidence), evidence], 1)


def normal(image: Tensor) -> Tensor:
    return torch.zeros(len(image), dtype=torch.long)


def lesions() -> tuple[Tensor, Tensor]:
    """Two images with a lesion in the quarter that counts and two elsewhere; and all removed."""
    healthy = torch.full((2, 1, 16, 16), -1.0)
    image = healthy.clone()
    image[:, :, 2:6, 2:6] = 1.0
    image[:, :, 10:14, 10:14] = 1.0
    image[:, :, 10:14, 2:6] = 0.0
    return image, healthy


def test_only_the_change_that_the_classifier_minds_stays() -> None:
    image, healthy = lesions()
    verified = HideAndSeek()(image, healthy, normal(image), Minds())
    expected = healthy.clone()
    expected[:, :, 10:14] = image[:, :, 10:14]
    assert torch.equal(verified, expected)


def test_images_do_not_mix() -> None:
    image, healthy = lesions()
    image[1, :, 10:14] = -1.0  # the second one has no needless change
    both = HideAndSeek()(image, healthy, normal(image), Minds())
    alone = [HideAndSeek()(image[i : i + 1], healthy[i : i + 1], normal(image[:1]), Minds()) for i in (0, 1)]
    assert torch.equal(both, torch.cat(alone))
    assert torch.equal(both[1], healthy[1])


def test_what_is_needed_only_together_stays() -> None:
    """Of many faint changes none matters alone; undoing all would make the image abnormal again."""
    image = torch.full((1, 1, 16, 16), -1.0)
    image[..., :8:2, :8:2] = 0.0
    healthy = torch.full_like(image, -1.0)
    minds = Minds(slope=10.0)
    assert minds(image).argmax(1) == 1
    assert minds(healthy).argmax(1) == 0
    assert torch.equal(HideAndSeek(gain=0.2)(image, healthy, normal(image), minds), healthy)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10))
def test_every_pixel_is_the_images_or_the_counterfactuals(threshold: float, gain: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, counterfactual = torch.rand(2, 3, 1, 16, 16, generator=generator) * 2 - 1
    verified = HideAndSeek(threshold, gain)(image, counterfactual, normal(image), Minds())
    assert ((verified == image) | (verified == counterfactual)).all()
    small = (image - counterfactual).abs() / 2 <= threshold
    assert torch.equal(verified[small], counterfactual[small])


class Weighs(nn.Module):
    """Abnormal by a weighted sum of brightness: the more of a bright image is revealed, the more so."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, image: Tensor) -> Tensor:
        evidence = (self.weight * (image + 1)).flatten(1).sum(1) - 1
        return torch.stack([torch.zeros_like(evidence), evidence], 1)


@given(st.integers(0, 1000), st.floats(0.0, 0.3))
def test_asking_about_groups_answers_as_asking_about_each_region(seed: int, gain: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    classifier = Weighs(torch.rand(12, 12, generator=generator) ** 4 / 4)
    healthy = torch.full((2, 1, 12, 12), -1.0)
    bright = torch.rand(healthy.shape, generator=generator) > 0.75
    image = healthy + bright * torch.rand(2, 1, 1, 1, generator=generator)
    expected = healthy.clone()
    before = classifier(healthy).softmax(1)[:, 0]
    for n in range(2):
        regions, count = ndimage.label(image[n, 0] - healthy[n, 0] > 0.1, np.ones((3, 3)))
        for number in range(1, count + 1):
            place = torch.from_numpy(regions == number)
            revealed = torch.where(place, image[n], healthy[n])
            if before[n] - classifier(revealed[None]).softmax(1)[0, 0] < gain:
                expected[n] = torch.where(place, image[n], expected[n])
        if classifier(expected[n][None]).argmax(1) == 1:
            expected[n] = healthy[n]
    assert torch.equal(HideAndSeek(0.05, gain)(image, healthy, normal(image), classifier), expected)


def test_specks_that_do_not_matter_are_asked_about_together() -> None:
    image, healthy = lesions()
    image[:, :, 9::2, ::2] = 0.5
    asked: list[int] = []
    classifier = Minds()
    classifier.register_forward_hook(lambda _module, given, _found: asked.append(len(given[0])))
    verified = HideAndSeek()(image, healthy, normal(image), classifier)
    assert torch.equal(verified[:, :, 8:], image[:, :, 8:])
    assert sum(asked) < 30  # of two images with more than 20 changes each


def test_volumes_are_verified_too() -> None:
    image = torch.full((1, 1, 4, 16, 16), -1.0)
    image[..., 1:3, 2:6, 2:6] = 1.0
    healthy = torch.full_like(image, -1.0)
    assert torch.equal(HideAndSeek()(image, healthy, normal(image), Minds()), healthy)


def test_a_lesion_that_is_put_in_is_verified_too() -> None:
    """Towards the abnormal class, what is needed is what makes the image abnormal; a grade is that class."""
    lesion, healthy = lesions()
    expected = healthy.clone()
    expected[:, :, 2:6, 2:6] = 1.0
    for target in (1, 3):
        assert torch.equal(HideAndSeek()(healthy, lesion, torch.full((2,), target), Minds()), expected)


def test_a_higher_threshold_divides_what_hangs_together_by_little() -> None:
    image = torch.full((1, 1, 16, 16), -1.0)
    healthy = image.clone()
    image[:, :, 2:14, 2:14] += 0.16  # |x - x'| is half of it
    image[:, :, 2:6, 2:6] = image[:, :, 10:14, 10:14] = 1.0
    whole = HideAndSeek(0.05)(image, healthy, normal(image), Minds())
    assert torch.equal(whole, healthy)
    divided = HideAndSeek([0.05, 0.1])(image, healthy, normal(image), Minds())
    expected = healthy.clone()
    expected[:, :, 10:14, 10:14] = 1.0
    assert torch.equal(divided, expected)


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"threshold": [0.05, -0.1]}, {"gain": 2.0}])
def test_shares_outside_of_0_to_1_are_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=f"verify.{key}: must be from 0 to 1"):
        HideAndSeek(**wrong)


@pytest.mark.parametrize("make", [toy_coin, toy_cyclegan, partial(Optimise, Bright(), rounds=1, steps=2)])
def test_methods_verify_what_they_generate(make: Any) -> None:
    asked: list[Tensor] = []

    def take_back(image: Tensor, counterfactual: Tensor, target: Tensor, classifier: nn.Module) -> Tensor:
        asked.append(target)
        return image

    method = make(verify=take_back)
    image = toy_batch(0)["image"]
    assert torch.equal(method.generate(image, normal(image)).counterfactual, image)
    assert len(asked) == 1
    assert torch.equal(asked[0], normal(image))
