"""Canonical copies compute the same, with one module per operation, and follow the network that they copy."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attributor_promises import SIZE, SmallNet, calibrated, everything, random_images
from torch import Tensor, nn

from cfxai.errors import UnsuitableError
from cfxai.nn.canonical import CanonicalCopy, canonical
from cfxai.nn.classifiers import compact, timm_classifier, torchvision_classifier
from cfxai.nn.layer_kinds import HeadInput, HeldFixed, Mean, Sum

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ours": (compact, (16, 16)),
    "timm resnet": (lambda: timm_classifier("test_resnet"), (32, 32)),
    "timm with gates": (lambda: timm_classifier("test_efficientnet"), (32, 32)),
    "torchvision, functions": (lambda: torchvision_classifier("squeezenet1_1", classes=2), (32, 32)),
    "volumes": (lambda: compact(dims=3), (8, 8, 8)),
}


@pytest.mark.parametrize(("make", "size"), NETWORKS.values(), ids=NETWORKS)
def test_computes_the_same_for_any_batch(make: Callable[[], nn.Module], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = calibrated(make(), *size)
    images = random_images(3, size)
    before = everything(network)
    copy = canonical(network, images[:1])
    assert before == everything(network)
    with torch.no_grad():
        assert torch.allclose(copy.network(images), network(images), rtol=1e-4, atol=1e-5)
    assert copy.foreign == ()
    called = [node.target for node in copy.network.graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))
    assert not any(getattr(module, "inplace", False) for module in copy.network.modules())


class Everyday(nn.Module):
    """What networks are made of: shared and functional activations, in-place sums, gates, constants, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.squeeze, self.scale = nn.Conv2d(4, 4, 1), nn.Parameter(torch.rand(4, 1, 1))
        self.act, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        b, c, *_ = image.shape
        assert c == 1
        x = self.act(self.norm(self.first((image + 1) / 2)))
        y = self.act(self.second(x)) * self.scale
        y += x
        y = F.dropout(y, 0.3, self.training)
        y = y * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        return self.head(self.drop(F.leaky_relu(y, 0.2)).view(b, 4, -1).mean(-1))


def kinds(network: nn.Module) -> list[type]:
    return [type(module) for module in network.modules()][1:]


def test_every_operation_becomes_a_module_in_its_order() -> None:
    network = calibrated(Everyday(), *SIZE)
    copy = canonical(network, random_images(1))
    assert copy.foreign == ()
    assert kinds(copy.network) == [
        *(HeldFixed, HeldFixed, nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, HeldFixed, Sum),
        *(nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Sigmoid, HeldFixed, nn.LeakyReLU, Mean, HeadInput, nn.Linear),
    ]
    with torch.no_grad():
        assert torch.allclose(copy.network(random_images()), network(random_images()), atol=1e-6)


def test_a_batch_norm_is_folded_only_into_a_convolution_that_nothing_else_reads() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, image: Tensor) -> Tensor:
            features = self.body(image)
            return (features + self.norm(features)).flatten(2).mean(2)

    copy = canonical(calibrated(Twice(), *SIZE), random_images(1))
    assert kinds(copy.network) == [nn.Conv2d, nn.BatchNorm2d, Sum, Mean, HeadInput]


def test_no_gradient_passes_through_a_gate() -> None:
    class Gated(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image * image.sigmoid()).flatten(1)

    image = random_images(1).requires_grad_()
    canonical(Gated(), image.detach()).network(image).sum().backward()
    assert torch.allclose(image.grad, image.detach().sigmoid())


def test_functions_without_a_rule_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weigh = nn.Softmax(-1)

        def forward(self, image: Tensor) -> Tensor:
            ignored = image.cumsum(1)  # leads nowhere
            assert ignored.ndim == 4
            return (self.weigh(image) - image.exp()).flatten(1)

    assert canonical(Odd(), random_images(1)).foreign == ("Softmax", "exp", "sub")


class Undecided(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) if image.mean() > 0 else -image.flatten(1)


class Counting(nn.Module):
    """Computes something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image.flatten(1) * self.calls


class Several(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": image.flatten(1)}


@pytest.mark.parametrize(
    ("network", "says"),
    [(Undecided(), "control flow"), (Counting(), "computes something else"), (Several(), "returns a dict")],
)
def test_networks_that_cannot_be_rewritten_are_refused_with_the_reason(network: nn.Module, says: str) -> None:
    with pytest.raises(UnsuitableError, match=rf"{says}.*integrated_gradients, rise or occlusion"):
        canonical(network, random_images(1))


def by_optimizer(network: SmallNet) -> None:
    with torch.no_grad():
        network.head.weight.add_(1.0)


def by_data(network: SmallNet) -> None:
    network.body[0].weight.data.mul_(0.5)


def by_buffer(network: SmallNet) -> None:
    network.stem[1].running_mean.fill_(0.1)


def by_layer(network: SmallNet) -> None:
    network.stem[2] = nn.SiLU()


@pytest.mark.parametrize("change", [by_optimizer, by_data, by_buffer, by_layer])
def test_a_copy_follows_changes_of_the_network_and_is_kept_otherwise(change: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(0)
    network = calibrated(SmallNet(), *SIZE)
    images, copies = random_images(), CanonicalCopy(network)
    first = copies.of(images)
    assert copies.of(images[:2]) is first
    change(network)
    assert copies.of(images) is not first
    with torch.no_grad():
        assert torch.allclose(copies.of(images).network(images), network(images), atol=1e-5)
