"""Classifiers as artefacts: preprocessing inside, k >= 2 logits, any library's network, weights that fit."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cfxai.config.build import Parts
from cfxai.errors import ConfigError
from cfxai.nn.classifiers import ImageClassifier, compact, monai_classifier, timm_classifier, torchvision_classifier
from cfxai.nn.memory_format import convolve_fast
from cfxai.nn.weights import digest
from cfxai.protocols import Classifier


class Sums(nn.Module):
    """One logit per image, or k: the sum of its pixels times 1, 2, ..."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, classes + 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).sum(1, keepdim=True) * self.scale


def test_preprocessing_is_inside() -> None:
    image = torch.rand(3, 3, 8, 8) * 2 - 1
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    channels = [((image[:, c] + 1) / 2 - mean[c]) / std[c] for c in range(3)]
    expected = torch.stack(channels, 1).flatten(1).sum(1)
    found = ImageClassifier(Sums(2), mean=mean, std=std)(image)
    torch.testing.assert_close(found, torch.stack([expected, 2 * expected], 1), rtol=1e-4, atol=1e-3)


def test_one_logit_is_read_as_two() -> None:
    image = torch.rand(4, 1, 8, 8)
    logits = ImageClassifier(Sums(1))(image)
    assert logits.shape == (4, 2)
    assert (logits[:, 0] == 0).all()
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(logits[:, 1]))


def test_grey_images_are_repeated_for_a_colour_network() -> None:
    image = torch.rand(2, 1, 8, 8)
    colour = ImageClassifier(Sums(2), mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.testing.assert_close(colour(image), colour(image.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("make", "shape", "classes"),
    [
        (lambda: compact(widths=(4, 8)), (2, 1, 16, 16), 2),
        (lambda: compact(channels=3, classes=4, widths=(4, 8)), (2, 3, 16, 16), 4),
        (lambda: compact(widths=(4, 8), dims=3), (2, 1, 16, 16, 16), 2),
        (lambda: timm_classifier("resnet10t"), (2, 1, 64, 64), 2),
        (lambda: timm_classifier("resnet10t", channels=3, classes=5), (2, 3, 64, 64), 5),
        (lambda: torchvision_classifier("squeezenet1_1"), (2, 1, 64, 64), 2),
        (lambda: torchvision_classifier("resnet18", classes=3), (2, 3, 64, 64), 3),
        (lambda: monai_classifier("resnet10"), (2, 1, 32, 32), 2),
        (lambda: monai_classifier("resnet10", dims=3, classes=3), (2, 1, 16, 16, 16), 3),
        (lambda: monai_classifier("densenet121"), (2, 1, 32, 32), 2),
    ],
)
def test_every_library_gives_logits_for_images_and_volumes(make: Any, shape: tuple[int, ...], classes: int) -> None:
    classifier = make().eval()
    assert isinstance(classifier, Classifier)
    with torch.no_grad():
        assert classifier(torch.rand(shape) * 2 - 1).shape == (2, classes)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fast_layout_changes_no_number(dims: int) -> None:
    classifier, image = compact(widths=(4, 8), dims=dims).eval(), torch.rand(2, 1, *[16] * dims)
    before, identity = classifier(image), digest(classifier)
    assert convolve_fast(classifier) is classifier
    torch.testing.assert_close(classifier(image), before)
    assert digest(classifier) == identity


@pytest.mark.parametrize("channels", [1, 3])
def test_features_follow_the_weights_layout(channels: int) -> None:
    classifier = convolve_fast(timm_classifier("resnet10t", channels=channels)).eval()
    layouts: list[bool] = []
    classifier.network.layer1.register_forward_hook(
        lambda _module, _given, made: layouts.append(made.is_contiguous(memory_format=torch.channels_last))
    )
    classifier(torch.rand(2, channels, 64, 64) * 2 - 1)
    assert layouts == [True]


def test_timm_preprocessing_is_the_published_one() -> None:
    grey, colour = timm_classifier("resnet10t"), timm_classifier("resnet10t", channels=3)
    published = colour.network.pretrained_cfg
    assert colour.mean.tolist() == pytest.approx(list(published["mean"]))
    assert grey.std.tolist() == pytest.approx([sum(published["std"]) / 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timm_classifier("resnet99"), "timm has no network 'resnet99'.*resnet"),
        (lambda: torchvision_classifier("resnet99"), "torchvision has no network 'resnet99'.*resnet"),
        (lambda: monai_classifier("resnet99"), "classifier.name: choose one of densenet121, .*not 'resnet99'"),
    ],
)
def test_an_unknown_name_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("whose", ["the artefact's", "the network's"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_either_kind_load(tmp_path: Path, whose: str, suffix: str) -> None:
    torch.manual_seed(0)
    trained = compact(widths=(4, 8))
    state = (trained if whose == "the artefact's" else trained.network).state_dict()
    file = tmp_path / f"f.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save({"state_dict": state}, file)
    torch.manual_seed(1)
    assert digest(compact(widths=(4, 8))) != digest(trained)
    assert digest(compact(widths=(4, 8), weights=str(file))) == digest(trained)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    save_file(compact(widths=(4, 8)).state_dict(), file)
    with pytest.raises(ConfigError, match=r"of another network \(\d+ tensors missing, unknown or of another shape"):
        compact(widths=(4, 16), weights=str(file))
    with pytest.raises(ConfigError, match="of another network"):
        monai_classifier("resnet10", weights=str(file))
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors: no such weights file"):
        compact(weights=str(tmp_path / "nowhere.safetensors"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="truncated or not a weights file"):
        compact(widths=(4, 8), weights=str(file))


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(width, 1)

    def forward(self, image):
        return self.last(self.layers(image))
"""


def test_ones_own_network_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_hospital.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import my_hospital

    torch.save(my_hospital.Net(5).state_dict(), tmp_path / "net.pth")
    section = {
        "_target_": "cfxai.nn.classifiers.ImageClassifier",
        "network": {"_target_": "my_hospital.Net", "width": 5},
        "mean": [0.4],
        "std": [0.2],
        "weights": str(tmp_path / "net.pth"),
    }
    classifier = Parts({"classifier": section, "plugins": ["my_hospital"]})["classifier"]
    assert classifier(torch.rand(2, 1, 8, 8)).shape == (2, 2)
    with pytest.raises(ConfigError, match=r"plugins=\[my_hospital\]"):
        Parts({"classifier": section})
    monkeypatch.delitem(sys.modules, "my_hospital")


def test_published_weights_are_not_fetched_when_there_are_trained_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.safetensors"
    save_file(timm_classifier("resnet10t").state_dict(), file)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    timm_classifier("resnet10t", pretrained=True, weights=str(file))
