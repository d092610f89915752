"""FID and KID against closed forms and slow sums; the features they stand on."""

from pathlib import Path

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchvision.models import inception_v3

from cfxai.errors import ConfigError
from cfxai.metrics.inception import InceptionFeatures
from cfxai.metrics.realism import Realism, frechet_distance, kernel_distance
from cfxai.nn.features import penultimate
from cfxai.protocols import Counterfactual, Metric, Result


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def exactly(mean: Tensor, root: Tensor, n: int = 200) -> Tensor:
    """Samples whose sample mean and covariance are exactly `mean` and root root^T."""
    white = gaussian(n, len(mean), 0)
    white -= white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
    return white @ root.T + mean


def test_frechet_distance_of_commuting_gaussians() -> None:
    mean, spread = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    x = exactly(torch.zeros(3).double(), torch.eye(3).double())
    y = exactly(mean, spread.diag())
    assert frechet_distance(x, y) == pytest.approx(float(mean.square().sum() + (1 - spread).square().sum()), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_any_gaussians_is_that_by_matrix_root() -> None:
    x, y = gaussian(60, 5, 1) @ gaussian(5, 5, 2), gaussian(50, 5, 3) @ gaussian(5, 5, 4) + 1
    c_x, c_y = torch.cov(x.T).numpy(), torch.cov(y.T).numpy()
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    expected = shift + (c_x + c_y - 2 * sqrtm(c_x @ c_y).real).trace()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_the_double_sum() -> None:
    x, y = gaussian(7, 4, 0), gaussian(9, 4, 1) + 0.5

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 4 + 1) ** 3)

    xx = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    yy = sum(kernel(y[i], y[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    xy = sum(kernel(a, b) for a in x for b in y) / 63
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy)


def test_kernel_distance_is_unbiased() -> None:
    same = [kernel_distance(gaussian(20, 3, i), gaussian(20, 3, 1000 + i)) for i in range(200)]
    assert abs(sum(same) / 200) < 0.05
    assert min(same) < 0


def explained(normal: Tensor, abnormal: Tensor) -> Result:
    """Normal images are left alone; the counterfactuals of abnormal ones are `abnormal`."""
    image = torch.cat([normal, torch.full_like(abnormal, 9.0)])
    made = torch.cat([normal, abnormal])
    label = torch.tensor([0] * len(normal) + [1] * len(abnormal))
    empty = torch.zeros(len(label), *image.shape[2:])
    p = torch.full((len(label), 2), 0.5)
    counterfactual = Counterfactual(image, made, torch.zeros_like(label))
    return Result(image, label, empty, empty > 0, tuple("a" * len(label)), p, None, counterfactual, p)


def flat(image: Tensor) -> Tensor:
    return image.flatten(1)


def test_realism_compares_normal_images_with_counterfactuals_of_abnormal_ones() -> None:
    x, y = gaussian(12, 4, 0), gaussian(10, 4, 1) + 1
    metric = Realism(flat, "pixels")
    assert isinstance(metric, Metric)
    for part in (slice(0, 6), slice(6, 12)):
        metric.update(explained(x[part].view(-1, 1, 2, 2).float(), y[part].view(-1, 1, 2, 2).float()))
    found = metric.compute()
    assert found["fid"] == pytest.approx(frechet_distance(x, y), rel=1e-4)
    assert found["kid"] == pytest.approx(kernel_distance(x, y), rel=1e-4)
    assert (found["fid_note"], found["extractor"]) == (None, "pixels")


def test_fid_needs_as_many_images_as_dimensions() -> None:
    metric = Realism(flat, "pixels")
    metric.update(explained(gaussian(9, 4, 0).view(-1, 1, 2, 2), gaussian(3, 4, 1).view(-1, 1, 2, 2)))
    found = metric.compute()
    assert found["fid"] is None
    assert found["fid_note"] == "not computed: 3 images for 4 feature dimensions"
    assert found["kid"] is not None


def test_attributors_have_no_realism() -> None:
    metric = Realism(flat, "pixels")
    empty = torch.zeros(1, 2, 2)
    metric.update(Result(empty[None], torch.tensor([1]), empty, empty > 0, ("a",), torch.tensor([[0.5, 0.5]])))
    assert metric.compute() == {"fid": None, "kid": None, "fid_note": None, "extractor": "pixels"}


class HeadFirst(nn.Module):
    """Registers its head before its body, and runs a linear layer inside the body."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.inner = nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.body(image)
        if isinstance(self.head, nn.Conv2d):
            return self.head(maps).mean((2, 3))
        return self.head(self.inner(maps.mean((2, 3))))


@pytest.mark.parametrize("head", [nn.Linear(4, 2), nn.Conv2d(4, 2, 1)])
def test_penultimate_features_are_what_the_last_executed_linear_layer_sees(head: nn.Module) -> None:
    classifier, image = HeadFirst(head).train(), torch.rand(3, 1, 8, 8)
    state = {k: v.clone() for k, v in classifier.state_dict().items()}
    features = penultimate(classifier)(image)
    assert features.shape == (3, 4)
    assert not features.requires_grad
    assert classifier.training
    assert all(torch.equal(v, state[k]) for k, v in classifier.state_dict().items())
    assert not any(m._forward_pre_hooks for m in classifier.modules())
    classifier.eval()
    weight, bias = head.weight.flatten(1), head.bias
    assert torch.allclose(features @ weight.T + bias, classifier(image), atol=1e-5)


def test_penultimate_features_of_tokens_are_averaged_over_tokens() -> None:
    tokens = torch.rand(2, 5, 3)
    assert torch.allclose(penultimate(nn.Sequential(nn.Linear(3, 2)))(tokens), tokens.mean(1))


def test_a_network_without_linear_layers_has_no_penultimate_features() -> None:
    with pytest.raises(ConfigError, match="linear"):
        penultimate(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))(torch.rand(1, 2, 4, 4))


def test_inception_is_never_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pth: no such file"):
        InceptionFeatures(tmp_path / "absent.pth")


def test_inception_features_come_from_the_local_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = inception_v3(weights=None, init_weights=False).eval()
    torch.save(reference.state_dict(), tmp_path / "inception.pth")
    features = InceptionFeatures(tmp_path / "inception.pth")
    image = torch.rand(1, 1, 299, 299) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(reference.fc(features(image)), reference(image.expand(-1, 3, -1, -1)), atol=1e-5)
    with pytest.raises(ConfigError, match="channels"):
        features(torch.rand(1, 1, 8, 8, 8))
