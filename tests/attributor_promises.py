"""What every attributor promises, as tests that each family's test file runs on its own attributors.

A test file subclasses `Promises` and parametrises `make`, a function from a classifier to the attributor:

    @pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
    class TestEveryAttributor(Promises): ...
"""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from cfxai.attribution.targets import ClassLogit, Contrast, Finding, MaskedSum
from cfxai.errors import UnsuitableError
from cfxai.protocols import Attributor

Make = Callable[[nn.Module], Attributor]
CONV, NORM = {2: nn.Conv2d, 3: nn.Conv3d}, {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
LABELS = torch.tensor([0, 2, 1])
SIZE = (24, 20)


class SmallNet(nn.Module):
    """Random convolutions with everything that could be disturbed: batch norm, dropout, in-place ReLU."""

    def __init__(self, dims: int = 2, outputs: int = 3) -> None:
        super().__init__()
        conv, norm = CONV[dims], NORM[dims]
        self.stem = nn.Sequential(conv(1, 6, 3, stride=2, padding=1), norm(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(conv(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.pool, self.head = POOL[dims](1), nn.Linear(8, outputs)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(image))).flatten(1))


class SmallSegmenter(nn.Module):
    """An encoder and a decoder: [b 1 *spatial] to two logits at each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU())
        self.up, self.head = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReLU()), nn.Conv2d(6, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.up(self.down(image)))


class BlobDetector(nn.Module):
    """A known detector: class 1 is the mean excess of brightness, smoothed over 5 x 5 pixels, above mid-grey."""

    def __init__(self) -> None:
        super().__init__()
        self.excess = nn.Sequential(nn.AvgPool2d(5, stride=2, padding=2), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        score = 400 * self.excess(image).flatten(1).mean(1)
        return torch.stack([torch.zeros_like(score), score - 3], 1)


class Broken(nn.Module):
    """A network whose last layer fails."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError(f"no head for {tuple(self.norm(self.body(image)).shape)}")


def calibrated(network: nn.Module, *size: int) -> nn.Module:
    """The network in evaluation mode, with batch-norm statistics of 16 random images of one channel."""
    torch.manual_seed(0)
    network.train()(torch.rand(16, 1, *size) * 2 - 1)
    return network.eval()


def random_images(count: int = 3, size: tuple[int, ...] = SIZE) -> Tensor:
    """[count 1 *size] in [-1, 1], always the same."""
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def planted() -> tuple[Tensor, Tensor]:
    """Two dark images with a bright square each, and where it is: what `BlobDetector` finds."""
    image = torch.full((2, 1, 48, 48), -0.4)
    image[0, :, 10:16, 30:36] = 0.9
    image[1, :, 34:40, 8:14] = 0.9
    return image, image[:, 0] > 0


def everything(network: nn.Module) -> list[object]:
    """All of a network that an attributor could disturb, apart from the values of its state."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(type(m), m.training, *(len(getattr(m, hook)) for hook in hooks)) for m in network.modules()]
    return [
        *modules,
        *((name, p.data_ptr(), p.requires_grad, p.grad is None) for name, p in network.named_parameters()),
    ]


class Promises:
    @pytest.fixture
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return calibrated(SmallNet(), *SIZE)

    @pytest.fixture
    def images(self) -> Tensor:
        return random_images()

    def test_gives_a_raw_map(self, make: Make, network: nn.Module, images: Tensor) -> None:
        attributor = make(network)
        assert isinstance(attributor, Attributor)
        saliency = attributor.attribute(images, LABELS)
        assert saliency.shape == (3, *SIZE)
        assert saliency.dtype == torch.float32
        assert saliency.isfinite().all()
        assert saliency.any()
        assert not saliency.requires_grad

    def test_gives_an_image_the_same_map_alone_and_in_a_batch(
        self, make: Make, network: nn.Module, images: Tensor
    ) -> None:
        together = make(network).attribute(images, LABELS)
        for i in range(3):
            alone = make(network).attribute(images[i : i + 1], LABELS[i : i + 1])
            assert torch.allclose(together[i], alone[0], rtol=1e-4, atol=1e-6)

    def test_gives_full_precision_under_autocast_or_refuses(
        self, make: Make, network: nn.Module, images: Tensor
    ) -> None:
        with torch.autocast("cpu", torch.bfloat16), suppress(UnsuitableError):
            saliency = make(network).attribute(images, LABELS)
            assert saliency.dtype == torch.float32
            assert saliency.isfinite().all()

    def test_leaves_the_classifier_as_it_was(self, make: Make, network: nn.Module, images: Tensor) -> None:
        network.train()
        network.body[2].eval()
        network.head.bias.requires_grad_(False)
        network.head.weight.grad = torch.ones_like(network.head.weight)
        state = {k: v.clone() for k, v in network.state_dict().items()}
        before = everything(network)

        make(network).attribute(images, LABELS)

        assert before == everything(network)
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))

    def test_leaves_the_classifier_as_it_was_after_an_error(self, make: Make, images: Tensor) -> None:
        network = Broken().train()
        before = everything(network)
        with pytest.raises((RuntimeError, UnsuitableError)):
            make(network).attribute(images, LABELS)
        assert before == everything(network)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_manages_its_own_gradients(self, make: Make, mode: type, network: nn.Module, images: Tensor) -> None:
        expected = make(network).attribute(images, LABELS)
        with mode():
            found = make(network).attribute(images * 1, LABELS * 1)
            finding = make(network).attribute(images * 1, Finding(LABELS * 1))
        assert torch.allclose(found, expected, atol=1e-6)
        assert finding.isfinite().all()
        assert network.head.weight.data.is_inference() is False

    def test_reads_labels_as_class_logits(self, make: Make, network: nn.Module, images: Tensor) -> None:
        expected = make(network).attribute(images, LABELS)
        assert torch.allclose(make(network).attribute(images, ClassLogit(LABELS)), expected, atol=1e-6)

    def test_reads_one_logit_as_two_classes(self, make: Make, images: Tensor) -> None:
        torch.manual_seed(0)
        network = calibrated(SmallNet(outputs=1), *SIZE)
        saliency = make(network).attribute(images, torch.ones(3, dtype=torch.long))
        assert saliency.shape == (3, *SIZE)
        assert saliency.any()
        assert make(network).attribute(images, Contrast(1, 0)).any()

    def test_explains_the_sum_over_a_segment(self, make: Make, images: Tensor) -> None:
        torch.manual_seed(0)
        mask = torch.zeros(3, *SIZE, dtype=torch.bool)
        mask[:, 4:10, 4:10] = True
        with suppress(UnsuitableError):  # a method may say that it cannot
            saliency = make(SmallSegmenter()).attribute(images, MaskedSum(1, mask))
            assert saliency.shape == (3, *SIZE)
            assert saliency.isfinite().all()

    def test_explains_volumes(self, make: Make) -> None:
        torch.manual_seed(0)
        network = calibrated(SmallNet(dims=3), 12, 16, 8)
        saliency = make(network).attribute(random_images(2, (12, 16, 8)), torch.tensor([0, 1]))
        assert saliency.shape == (2, 12, 16, 8)
        assert saliency.any()

    def test_points_at_a_planted_lesion(self, make: Make) -> None:
        image, lesion = planted()
        saliency = make(BlobDetector()).attribute(image, torch.tensor([1, 1]))
        for one, truth in zip(saliency, lesion, strict=True):
            assert truth[tuple(int(i) for i in (one == one.max()).nonzero()[0])]
            assert one[truth].mean() > 1.2 * one[~truth].mean()


def two_channels(count: int = 3) -> Tensor:
    return torch.rand(count, 2, 18, 18, generator=torch.Generator().manual_seed(4)) * 2 - 1


def scores(network: nn.Module, image: Tensor, labels: Tensor = LABELS) -> Tensor:
    with torch.no_grad():
        return network(image).gather(1, labels[:, None])[:, 0]
