"""Gradients, integrated gradients and noise against closed forms and captum."""

import math
from collections.abc import Callable

import captum.attr
import pytest
import torch
from attributor_promises import (
    LABELS,
    SIZE,
    BlobDetector,
    Make,
    Promises,
    SmallNet,
    calibrated,
    planted,
    random_images,
    scores,
    two_channels,
)
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from cfxai.attribution.deep_lift import DeepLIFT
from cfxai.attribution.gradients import Gradient, InputXGradient
from cfxai.attribution.guided import Deconvnet, GuidedBackprop
from cfxai.attribution.integrated import ExpectedGradients, IntegratedGradients
from cfxai.attribution.smooth import SmoothGrad, SquareGrad, VarGrad
from cfxai.attribution.targets import ClassLogit, Contrast
from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.protocols import Attributor, Image, Labels, Saliency, Target

ATTRIBUTORS: dict[str, Callable[[nn.Module], Attributor]] = {
    "gradient": Gradient,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "expected_gradients": lambda network: ExpectedGradients(network, samples=8),
    "smooth_grad": lambda network: SmoothGrad(Gradient(network), samples=5),
    "square_grad": lambda network: SquareGrad(InputXGradient(network), samples=5),
    "var_grad": lambda network: VarGrad(Gradient(network, channels="l2"), samples=5),
    "guided_backprop": GuidedBackprop,
    "deep_lift": DeepLIFT,
}


@pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
class TestEveryAttributor(Promises):
    pass


@pytest.mark.parametrize("make", [Deconvnet])
class TestDeconvnet(Promises):
    def test_points_at_a_planted_lesion(self, make: Make) -> None:
        """It does not: which ReLUs were silent is what it leaves out, and here nothing else depends on the image."""
        image, lesion = planted()
        saliency = make(BlobDetector()).attribute(image, torch.tensor([1, 1]))[:, 8:40, 8:40]
        assert float(saliency[lesion[:, 8:40, 8:40]].mean()) == pytest.approx(float(saliency.mean()), rel=0.05)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return calibrated(SmallNet(), *SIZE)


@pytest.fixture
def images() -> Tensor:
    return random_images()


def homogeneous() -> nn.Module:
    """A ReLU network without biases: f(a x) = a f(x) for a > 0."""
    torch.manual_seed(2)
    layers = (nn.Conv2d(2, 6, 3, stride=2, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 3 * 3, 3, bias=False))


def test_gradients_are_captums(network: nn.Module, images: Tensor) -> None:
    gradient = captum.attr.Saliency(network).attribute(images, LABELS, abs=False)
    assert torch.allclose(Gradient(network, channels="sum").attribute(images, LABELS), gradient[:, 0])
    assert torch.allclose(Gradient(network).attribute(images, LABELS), gradient.abs()[:, 0])
    product = captum.attr.InputXGradient(network).attribute(images, LABELS).detach()
    assert torch.allclose(InputXGradient(network, baseline=0.0).attribute(images, LABELS), product[:, 0])


def test_input_x_gradient_of_black_pixels_is_zero(network: nn.Module) -> None:
    dark = random_images()
    dark[..., :5] = -1
    saliency = InputXGradient(network).attribute(dark, LABELS)
    assert not saliency[..., :5].any()
    assert saliency[..., 5:].any()


@pytest.mark.parametrize(
    ("channels", "expected"), [("sum", -1.0), ("abs", 7.0), ("max", 4.0), ("l2", math.sqrt(9 + 16))]
)
def test_channels_are_reduced_as_named(channels: str, expected: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4, 1, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([3.0] * 4 + [-4.0] * 4)[None])
    saliency = Gradient(network, channels=channels).attribute(torch.rand(2, 2, 2, 2), torch.tensor([1, 1]))
    assert torch.allclose(saliency, torch.full((2, 2, 2), expected))


def test_an_unknown_reduction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="sum, abs, max, l2"):
        Gradient(nn.Identity(), channels="mean")


def test_a_score_without_a_gradient_is_refused(images: Tensor) -> None:
    class Rounded(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.detach().flatten(1).round()

    with pytest.raises(UnsuitableError, match="rise"):
        Gradient(Rounded()).attribute(images, LABELS)


class TestIntegratedGradients:
    def test_is_captums(self, network: nn.Module, images: Tensor) -> None:
        expected = captum.attr.IntegratedGradients(network).attribute(
            images, torch.full_like(images, -1), LABELS, n_steps=64, method="gausslegendre"
        )
        found = IntegratedGradients(network, steps=64, batch_size=7, tolerance=1.0).attribute(images, LABELS)
        assert torch.allclose(found, expected[:, 0].float(), atol=1e-6)

    def test_adds_up_to_the_change_of_the_score(self, network: nn.Module, images: Tensor) -> None:
        found = IntegratedGradients(network, baseline=0.3, tolerance=0.01).attribute(images, LABELS)
        change = scores(network, images) - scores(network, torch.full_like(images, 0.3))
        assert torch.allclose(found.flatten(1).sum(1), change, atol=0.02 * change.abs().max())

    def test_of_a_network_without_biases_is_input_x_gradient(self) -> None:
        network, image = homogeneous(), two_channels()
        found = IntegratedGradients(network, baseline=0.0, steps=1).contributions(image, LABELS)
        expected = InputXGradient(network, baseline=0.0).contributions(image, LABELS)
        assert torch.allclose(found, expected, atol=1e-6)

    def test_takes_more_steps_only_where_it_must(self) -> None:
        class Steep(nn.Module):
            """Rises from x = 0.9 on, so that few points on the way see it; flat and linear for dark images."""

            def forward(self, image: Tensor) -> Tensor:
                return (0.1 * image + 50 * (image - 0.9).relu()).flatten(1).sum(1, keepdim=True)

        image = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        attributor = IntegratedGradients(Steep(), steps=2, most_steps=512)
        together = attributor.attribute(image, torch.ones(2, dtype=torch.long))
        alone = IntegratedGradients(Steep(), steps=2).attribute(image[:1], torch.ones(1, dtype=torch.long))
        assert together.flatten() == pytest.approx([0.1, 5.2], rel=0.06)
        assert torch.equal(together[0], alone[0])
        with pytest.raises(UnsuitableError, match=r"with 4 steps .* raise most_steps"):
            IntegratedGradients(Steep(), steps=2, most_steps=4).attribute(image, torch.ones(2, dtype=torch.long))

    @given(st.floats(-1, 1), st.integers(1, 6))
    def test_of_a_polynomial_is_exact(self, baseline: float, degree: int) -> None:
        class Power(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return (image**degree).flatten(1).sum(1, keepdim=True)

        image = torch.tensor([0.5, -0.8, 0.1, 0.9]).view(1, 1, 2, 2)
        found = IntegratedGradients(Power(), baseline=baseline, steps=4).attribute(image, torch.tensor([1]))
        assert torch.allclose(found, (image**degree - baseline**degree)[:, 0], atol=1e-5)

    def test_refuses_impossible_numbers(self) -> None:
        with pytest.raises(ConfigError, match="steps=9"):
            IntegratedGradients(nn.Identity(), steps=9, most_steps=8)


class TestExpectedGradients:
    def test_of_a_linear_network_is_exact(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
        image, label = random_images(2, (4, 4)), torch.ones(2, dtype=torch.long)
        attributor = ExpectedGradients(network, baselines=[-1.0], noise=0.0, samples=3)
        expected = (image[:, 0] + 1) * network[1].weight.view(4, 4)
        assert torch.allclose(attributor.attribute(image, label), expected, atol=1e-6)

    def test_adds_up_on_average(self, network: nn.Module, images: Tensor) -> None:
        background = random_images(5)[3:]
        found = ExpectedGradients(network, baselines=background, noise=0.0, samples=600).attribute(images, LABELS)
        mean = torch.stack([scores(network, one.expand_as(images)) for one in background]).mean(0)
        change = scores(network, images) - mean
        assert torch.allclose(found.flatten(1).sum(1), change, atol=0.1 * float(change.abs().max()))

    def test_is_integrated_gradients_where_the_baseline_is_certain(self, network: nn.Module, images: Tensor) -> None:
        found = ExpectedGradients(network, noise=0.0, samples=400).attribute(images, LABELS)
        expected = IntegratedGradients(network, steps=200).attribute(images, LABELS)
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()

    def test_other_numbers_with_another_seed(self, network: nn.Module, images: Tensor) -> None:
        maps = [ExpectedGradients(network, samples=4, seed=s).attribute(images, LABELS) for s in (0, 0, 1)]
        assert torch.equal(maps[0], maps[1])
        assert not torch.allclose(maps[0], maps[2])

    def test_refuses_baselines_of_another_size(self, images: Tensor) -> None:
        with pytest.raises(ConfigError, match=r"\(1, 3, 3\) for images of \(1, 24, 20\)"):
            ExpectedGradients(nn.Identity(), baselines=torch.zeros(2, 1, 3, 3)).attribute(images, LABELS)


class TestNoise:
    @pytest.mark.parametrize(("kind", "of"), [(SmoothGrad, "mean"), (SquareGrad, "square"), (VarGrad, "variance")])
    def test_is_the_slow_loop(self, kind: type[SmoothGrad], of: str, network: nn.Module, images: Tensor) -> None:
        random = torch.Generator().manual_seed(7)
        noise = [torch.randn(1, *SIZE, generator=random) * 0.2 for _ in range(5)]
        answers = torch.stack([captum.attr.Saliency(network).attribute(images + n, LABELS, abs=False) for n in noise])
        summary = {"mean": answers.mean(0), "square": (answers**2).mean(0), "variance": answers.var(0, correction=0)}
        attributor = kind(Gradient(network), samples=5, noise=0.1, seed=7, batch_size=7)
        assert torch.allclose(attributor.attribute(images, LABELS), summary[of].abs()[:, 0], atol=1e-6)

    def test_of_a_linear_network_is_the_network(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        image = random_images(3, (4, 4))
        inner = Gradient(network, channels="sum")
        assert torch.allclose(SmoothGrad(inner).attribute(image, LABELS), inner.attribute(image, LABELS), atol=1e-6)
        assert VarGrad(inner).attribute(image, LABELS).abs().max() < 1e-9

    def test_wraps_attributors_that_know_no_channels(self, images: Tensor) -> None:
        class Darkness:
            def attribute(self, image: Image, target: Labels | Target) -> Saliency:
                assert isinstance(target, ClassLogit)
                return -image[:, 0]

        found = SmoothGrad(Darkness(), samples=200, noise=0.05).attribute(images, LABELS)
        assert torch.allclose(found, -images[:, 0], atol=0.05)

    def test_is_configured_around_any_attributor(self, network: nn.Module, images: Tensor) -> None:
        node = OmegaConf.load(CONF / "attribution" / "smooth_grad.yaml")
        node.attributor = OmegaConf.load(CONF / "attribution" / "input_x_gradient.yaml")
        node.samples, node.noise = 2, 0.0
        built = Parts({}, classifier=network).fresh(node)
        expected = InputXGradient(network).attribute(images, LABELS)
        assert torch.allclose(built.attribute(images, LABELS), expected, atol=1e-6)

    def test_refuses_impossible_numbers(self) -> None:
        with pytest.raises(ConfigError, match="samples=0"):
            SmoothGrad(Gradient(nn.Identity()), samples=0)


def test_a_contrast_is_the_difference_of_two_linear_maps(network: nn.Module, images: Tensor) -> None:
    for make in (lambda n: Gradient(n, channels="sum"), InputXGradient, DeepLIFT):
        first, second = (make(network).attribute(images, torch.full((3,), k)) for k in (2, 0))
        assert torch.allclose(make(network).attribute(images, Contrast(2, 0)), first - second, atol=1e-5)
