"""Guided backpropagation and DeepLIFT, which change a network's rules of differentiation, against captum."""

import itertools

import captum.attr
import pytest
import torch
from attributor_promises import LABELS, SIZE, SmallNet, calibrated, random_images, scores, two_channels
from torch import Tensor, nn

from cfxai.attribution.deep_lift import DeepLIFT
from cfxai.attribution.gradients import Gradient, InputXGradient
from cfxai.attribution.guided import Deconvnet, GuidedBackprop
from cfxai.errors import UnsuitableError


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return calibrated(SmallNet(), *SIZE)


@pytest.fixture
def images() -> Tensor:
    return random_images()


def unshared(network: nn.Module) -> nn.Module:
    """A network that captum's hooks can handle: nothing in place."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestGuided:
    @pytest.mark.parametrize(
        ("ours", "theirs"), [(GuidedBackprop, captum.attr.GuidedBackprop), (Deconvnet, captum.attr.Deconvolution)]
    )
    def test_is_captums(self, ours: type, theirs: type, network: nn.Module, images: Tensor) -> None:
        expected = theirs(unshared(network)).attribute(images, LABELS)
        assert torch.allclose(ours(network).attribute(images, LABELS), expected[:, 0], atol=1e-6)
        assert not torch.allclose(expected[:, 0], Gradient(network, channels="sum").attribute(images, LABELS))

    @pytest.mark.parametrize("other", [nn.SiLU(), nn.GELU(), nn.LeakyReLU(), nn.Identity()])
    @pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
    def test_refuses_what_would_be_the_plain_gradient(self, method: type, other: nn.Module, images: Tensor) -> None:
        network = nn.Sequential(nn.Conv2d(1, 4, 3), other, nn.Flatten(), nn.LazyLinear(3))
        network(images)
        with pytest.raises(UnsuitableError, match=r"ReLU.*integrated_gradients, rise or occlusion"):
            method(network).attribute(images, LABELS)

    def test_knows_a_relu_that_is_a_function(self, images: Tensor) -> None:
        class Functional(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

            def forward(self, image: Tensor) -> Tensor:
                return self.head(torch.relu(self.body(image)).mean((2, 3)))

        torch.manual_seed(0)
        network = Functional()
        modular = nn.Sequential(network.body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head)
        expected = captum.attr.GuidedBackprop(modular).attribute(images, LABELS)[:, 0]
        assert torch.allclose(GuidedBackprop(network).attribute(images, LABELS), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestDeepLIFT:
    def test_is_captums(self, network: nn.Module, images: Tensor) -> None:
        expected = captum.attr.DeepLift(unshared(network)).attribute(images, torch.full_like(images, -1), LABELS)
        assert torch.allclose(DeepLIFT(network).attribute(images, LABELS), expected[:, 0], atol=1e-6)

    def test_shares_out_maxima_as_the_slow_loop_does(self) -> None:
        """Captum's rule for maxima differs from its own definition behind a ReLU, and loses shared winners."""
        torch.manual_seed(1)
        network = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 9 * 9, 3))
        image, black = two_channels(2), torch.full((2, 9, 9, 4), 0.4)
        weight = network[3].weight.detach().view(3, 2, 9, 9)
        windows = image.relu().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)  # [b c 9 9 4]
        expected = torch.zeros_like(windows)
        for b, c, i, j in itertools.product(range(2), range(2), range(9), range(9)):
            here, there = windows[b, c, i, j], black[c, i, j]
            top = torch.maximum(here.max(), there.max())
            expected[b, c, i, j, here.argmax()] += (top - there.max()) * weight[LABELS[b], c, i, j]
            expected[b, c, i, j, there.argmax()] += (here.max() - top) * weight[LABELS[b], c, i, j]
        found = DeepLIFT(network, baseline=0.4).contributions(image, LABELS[:2])
        assert torch.allclose(found.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4), expected, atol=1e-6)

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Tanh()])
    def test_adds_up_through_overlapping_maxima(self, activation: nn.Module) -> None:
        torch.manual_seed(1)
        body = (nn.Conv2d(2, 6, 3), activation, nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(6, 4, 3), activation)
        network = nn.Sequential(*body, nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
        image = two_channels()
        found = DeepLIFT(network, tolerance=1e-4).attribute(image, LABELS)
        change = scores(network, image) - scores(network, torch.full_like(image, -1))
        assert torch.allclose(found.flatten(1).sum(1), change, rtol=1e-4)

    def test_from_black_on_a_network_without_biases_is_input_x_gradient_where_nothing_flips(self) -> None:
        image = torch.rand(2, 1, 6, 6)
        network = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1, bias=False))
        found = DeepLIFT(network, baseline=0.0).attribute(image, torch.ones(2, dtype=torch.long))
        expected = InputXGradient(network, baseline=0.0).attribute(image, torch.ones(2, dtype=torch.long))
        assert torch.allclose(found, expected, atol=1e-6)

    def test_refuses_a_gate_that_matters(self, images: Tensor) -> None:
        class Gated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.gate = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)

            def forward(self, image: Tensor) -> Tensor:
                return (self.body(image) * torch.sigmoid(4 * self.gate(image))).mean((2, 3))

        torch.manual_seed(0)
        with pytest.raises(UnsuitableError, match=r"add up to .* where the score changes by .* rise or occlusion"):
            DeepLIFT(Gated()).attribute(images, LABELS)

    def test_refuses_attention(self, images: Tensor) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patches, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 3)

            def forward(self, image: Tensor) -> Tensor:
                tokens = self.patches(image).flatten(2).transpose(1, 2)
                return self.head((tokens @ tokens.transpose(1, 2)).softmax(-1).matmul(tokens).mean(1))

        with pytest.raises(UnsuitableError, match=r"no rule for matmul, softmax"):
            DeepLIFT(Attention()).attribute(images, LABELS)
