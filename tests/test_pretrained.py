"""What a training starts from: state dicts as people have them, loaded into the network whatever its head."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.nn.classifiers import ImageClassifier, compact, monai_classifier, named_classifier, timm_classifier

State = dict[str, Tensor]
HEAD = ("network.head.weight", "network.head.bias")
HOLDERS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {
        "state_dict": {**{f"model.net.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(2)},
        "epoch": 3,
        "optimizer_states": [{"lr": 0.1}],
    },
    "timm": lambda state: {"model": state, "epoch": 3},
}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("cfxai"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def donor(classes: int = 5) -> ImageClassifier:
    torch.manual_seed(1)
    return compact(widths=(4, 8), classes=classes)


@pytest.mark.parametrize("holder", HOLDERS)
def test_another_head_is_left_out_and_said(holder: str, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    state = donor().network.state_dict()
    torch.save(HOLDERS[holder](state), tmp_path / "f.pth")
    torch.manual_seed(2)
    fresh = compact(widths=(4, 8)).state_dict()
    torch.manual_seed(2)
    found = compact(widths=(4, 8), pretrained=str(tmp_path / "f.pth")).state_dict()
    for name, value in found.items():
        expected = fresh[name] if name in (*HEAD, "mean", "std") else state[name.removeprefix("network.")]
        assert torch.equal(value, expected), name
    assert f"starts from {tmp_path / 'f.pth'}" in said.text
    assert "head.weight, head.bias missing or of other classes there, and learnt anew" in said.text


def test_an_artefact_of_ours_with_the_same_classes_loads_whole(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    trained = donor(classes=2)
    trained.temperature = torch.tensor(3.0)
    save_file(trained.state_dict(), tmp_path / "f.safetensors")
    found = compact(widths=(4, 8), pretrained=str(tmp_path / "f.safetensors"))
    assert found.temperature is None, "that belongs to the classifier that was calibrated"
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in found.state_dict().items())
    assert "anew" not in said.text


def test_a_backbone_without_any_head(tmp_path: Path) -> None:
    state = {k: v for k, v in donor().network.state_dict().items() if not k.startswith("head")}
    torch.save(state, tmp_path / "f.pt")
    found = compact(widths=(4, 8), pretrained=str(tmp_path / "f.pt")).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_colour_weights_serve_grey_images_as_if_these_were_repeated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = timm_classifier("resnet10t", channels=3).eval()
    torch.save(colour.network.state_dict(), tmp_path / "f.pth")
    grey = timm_classifier("resnet10t", pretrained=str(tmp_path / "f.pth")).eval()
    colour.mean, colour.std = grey.mean.expand(3), grey.std.expand(3)
    image = torch.rand(2, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(grey(image), colour(image), rtol=1e-4, atol=1e-4)


def test_trained_weights_win_over_what_to_start_from(tmp_path: Path) -> None:
    trained = donor(classes=2)
    save_file(trained.state_dict(), tmp_path / "f.safetensors")
    found = compact(widths=(4, 8), pretrained=str(tmp_path / "gone.pth"), weights=str(tmp_path / "f.safetensors"))
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in found.state_dict().items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save(donor().network.state_dict(), tmp_path / "f.pth")
    with pytest.raises(ConfigError, match=r"f\.pth: these weights are of another network .*check classifier\.name"):
        compact(widths=(4, 16), pretrained=str(tmp_path / "f.pth"))
    with pytest.raises(ConfigError, match="of another network"):
        monai_classifier("resnet10", pretrained=str(tmp_path / "f.pth"))
    with pytest.raises(ConfigError, match=r"nowhere\.pth: no such weights file"):
        compact(pretrained=str(tmp_path / "nowhere.pth"))
    with pytest.raises(
        ConfigError, match=r"classifier\.pretrained: this network has no published weights; name a file"
    ):
        compact(pretrained=True)


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_resnet"])
def test_published_weights_that_cannot_be_fetched(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    with pytest.raises(ConfigError, match=r"pretrained: the .* are neither cached nor reachable; name a local file"):
        named_classifier(name, pretrained=True)


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("efficientnet_b1", 64, 6_515_746),
        ("efficientnet_b7", 64, 63_792_082),
        ("convnext_tiny", 64, 27_821_666),
        ("swin_t", 64, 27_520_892),
        ("resnext101_64x4d", 64, 81_410_370),
        ("densenet121", 64, 6_955_906),
        ("alexnet", 512, 57_012_034),
        ("vit_tiny_patch16_224", 224, 5_426_498),
        ("compact", 64, 237_930),
    ],
)
def test_networks_by_name_alone(name: str, size: int, parameters: int) -> None:
    """Without memory for their weights: on the device that has shapes only."""
    with torch.device("meta"):
        classifier = named_classifier(name)
        assert classifier(torch.empty(2, 1, size, size)).shape == (2, 2)
    assert sum(p.numel() for p in classifier.parameters()) == parameters


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"neither torchvision nor timm has a network 'convnext_tini'.*convnext_tiny"):
        named_classifier("convnext_tini")


def test_a_temperature_divides_the_logits_and_travels_with_the_weights(tmp_path: Path) -> None:
    classifier, image = donor(classes=3).eval(), torch.rand(2, 1, 16, 16)
    before = classifier(image)
    save_file(classifier.state_dict(), tmp_path / "before.safetensors")
    classifier.temperature = torch.tensor(2.5)
    save_file(classifier.state_dict(), tmp_path / "after.safetensors")
    assert torch.allclose(classifier(image), before / 2.5)
    for name, temperature in (("before", 1.0), ("after", 2.5)):
        loaded = compact(widths=(4, 8), classes=3, weights=str(tmp_path / f"{name}.safetensors")).eval()
        assert torch.equal(loaded(image), before / temperature)
        assert (loaded.temperature is None) == (temperature == 1.0)
