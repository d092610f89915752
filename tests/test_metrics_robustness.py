"""Similarity, max-sensitivity and infidelity of maps against captum, scikit-image and closed forms."""

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor
from toy import toy_coin

from cfxai.attribution.gradients import Gradient, input_gradient
from cfxai.metrics.robustness import infidelity, max_sensitivity
from cfxai.metrics.similarity import rank_correlation, similarity
from cfxai.protocols import Saliency

LABELS = torch.tensor([1, 0, 1])


def images(*size: int, seed: int = 0) -> Tensor:
    """Away from the ends of the intensity range, so that nothing is clipped."""
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_max_sensitivity_is_captums() -> None:
    classifier, image = toy_coin().classifier, images(3, 1, 16, 16)
    attributor = Gradient(classifier)
    random = torch.Generator().manual_seed(7)
    changes = [0.1 * (2 * torch.rand(1, 16, 16, generator=random) - 1) for _ in range(4)]

    def perturbed(inputs: Tensor) -> Tensor:  # captum asks for all samples at once, image by image
        return inputs + torch.stack(changes).repeat(3, 1, 1, 1)

    def explained(inputs: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        return (attributor.attribute(inputs if isinstance(inputs, Tensor) else inputs[0], target)[:, None],)

    peer = sensitivity_max(explained, image, perturb_func=perturbed, n_perturb_samples=4, target=LABELS)
    found = max_sensitivity(attributor.attribute, image, LABELS, radius=0.1, samples=4, seed=7)
    assert torch.allclose(found, peer, rtol=1e-4)
    assert (found > 0).all()


def test_max_sensitivity_of_maps_that_do_not_move_or_do_not_exist() -> None:
    def still(image: Tensor, target: Tensor) -> Saliency:
        return torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])

    found = max_sensitivity(still, images(2, 1, 4, 4), LABELS[:2])
    assert found[0].isnan()
    assert found[1] == 0


def test_max_sensitivity_stays_within_the_radius_and_the_range() -> None:
    """Of the image itself as the map the relative change is known: |d| / |x|."""
    image = torch.full((1, 1, 8, 8), 0.95)
    seen: list[Tensor] = []

    def identity(x: Tensor, target: Tensor) -> Saliency:
        seen.append(x)
        return x[:, 0]

    found = max_sensitivity(identity, image, LABELS[:1], radius=0.2, samples=5)
    moved = torch.cat(seen[1:])
    assert moved.max() == 1
    assert 0.75 <= moved.min() < 0.77
    assert found[0] == pytest.approx(float((moved - image).flatten(1).norm(dim=1).max() / image.norm()))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_linear_score_is_explained_by_its_gradient(channels: int) -> None:
    """In 3-D too; whatever the scale of the map, since only its best multiple is judged."""
    weight = images(channels, 4, 5, 6)
    image = images(2, channels, 4, 5, 6, seed=1)

    def score(x: Tensor) -> Tensor:
        return (x * weight).flatten(1).sum(1)

    def gradient(x: Tensor, target: Tensor) -> Saliency:
        return -3 * weight.sum(0).expand(len(x), -1, -1, -1)

    assert infidelity(gradient, score, image, LABELS[:2]) == pytest.approx(torch.zeros(2), abs=1e-6)
    nothing = infidelity(lambda x, t: torch.zeros(2, 4, 5, 6), score, image, LABELS[:2])
    assert nothing == pytest.approx(torch.ones(2))
    assert infidelity(gradient, lambda x: torch.ones(2), image, LABELS[:2]).isnan().all()


def test_infidelity_is_captums() -> None:
    """Apart from the division by the error of a map of zeros, which captum leaves to the reader."""
    classifier, image, samples = toy_coin().classifier, images(3, 1, 16, 16), 6

    def score(x: Tensor) -> Tensor:
        return classifier(x).gather(1, LABELS.repeat(len(x) // 3)[:, None])[:, 0]

    def attribute(x: Tensor, target: Tensor) -> Saliency:
        return input_gradient(classifier, x, target)[:, 0]

    def noises() -> Tensor:
        random = torch.Generator().manual_seed(3)
        return torch.stack([0.5 * torch.randn(16, 16, generator=random) for _ in range(samples)])[:, None]

    noise = noises().repeat(3, 1, 1, 1)  # captum lets the copies of an image follow one another
    repeated = image.repeat_interleave(samples, 0)
    with torch.no_grad():
        error = captum_infidelity(
            lambda x: classifier(x), lambda x: (noise, repeated - noise), image, attribute(image, LABELS)[:, None],
            n_perturb_samples=samples, target=LABELS, normalize=True,
        )  # fmt: skip
        drops = (classifier(repeated) - classifier(repeated - noise)).gather(
            1, LABELS.repeat_interleave(samples)[:, None]
        )
    whole = drops.view(3, samples).square().mean(1)
    found = infidelity(attribute, score, image, LABELS, deviation=0.5, samples=samples, seed=3)
    assert torch.allclose(found.float(), error / whole, rtol=1e-3, atol=1e-5)
    assert ((found > 0) & (found < 1)).all()


def test_similarity_is_that_of_scipy_and_scikit_image() -> None:
    first, second = images(2, 12, 10), images(2, 12, 10, seed=1)
    found = similarity(first, second)
    for i in range(2):
        a, b = first[i].double().numpy(), second[i].double().numpy()
        scaled = [(x - x.min()) / (x.max() - x.min()) for x in (a, b)]
        assert float(found.spearman[i]) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
        assert float(found.ssim[i]) == pytest.approx(structural_similarity(*scaled, data_range=1.0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_the_same_map_at_any_scale_is_the_same(seed: int, scale: float, shift: float) -> None:
    saliency = images(1, 9, 9, seed=seed).double()
    found = similarity(saliency, scale * saliency + shift)
    assert (float(found.spearman), float(found.ssim)) == pytest.approx((1, 1), abs=1e-4)
    assert float(similarity(saliency, -saliency).spearman) == pytest.approx(-1)


def test_constant_maps_and_missing_scores_say_nothing() -> None:
    found = similarity(torch.ones(1, 8, 8), images(1, 8, 8))
    assert found.spearman.isnan()
    assert found.ssim.isnan()
    table = torch.tensor([[1.0, 2.0, np.nan], [3.0, 4.0, 0.0]])
    assert rank_correlation(table, torch.tensor([[10.0, 20.0, 0.0], [30.0, np.nan, 5.0]])) == pytest.approx(1)
    assert np.isnan(rank_correlation(table, torch.full((2, 3), np.nan)))


def test_volumes_and_small_maps_can_be_compared() -> None:
    assert float(similarity(images(1, 8, 7, 9), images(1, 8, 7, 9)).ssim) == pytest.approx(1)
    assert float(similarity(images(1, 4, 4), images(1, 4, 4)).ssim) == pytest.approx(1)
    assert similarity(images(1, 2, 2), images(1, 2, 2)).ssim.isnan()
