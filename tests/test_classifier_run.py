"""`conf/classifier_pneumonia.yaml` from images to a calibrated classifier, on a phantom of a few patients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.metrics import confusion_matrix, roc_auc_score

from cfxai import load_run
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.loaded import LoadedRun
from cfxai.metrics.calibration import calibration_error
from cfxai.metrics.operating_point import choose_operating_point
from cfxai.training import train

SMALL = (
    *("data.phantom.patients=40", "data.phantom.size=32", "data.size=32", "classifier_training.steps=16"),
    *("classifier_training.batch_size=4", "classifier_training.accumulate=2", "classifier_training.validate_every=8"),
    *("classifier_training.schedule=plateau", "evaluation.operating_point='sensitivity>=0.9'"),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(compose(CONF / "classifier_pneumonia.yaml", [*SMALL, f"cache={folder / 'cache'}"]), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def found(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "evaluation/metrics.json").read_text())["classifier"]


@pytest.fixture(scope="module")
def run(directory: Path) -> LoadedRun:
    return load_run(directory)


def predicted(run: LoadedRun, split: str, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    dataset = run.data.split(split)
    with torch.no_grad():
        logits = run.classifier(torch.from_numpy(np.array(dataset.images))).double() * temperature
    return logits.softmax(1).numpy(), np.asarray(dataset.labels)


def test_everybody_sees_calibrated_probabilities(directory: Path, found: dict[str, Any], run: LoadedRun) -> None:
    temperature = found["temperature"]
    assert float(run.classifier.temperature) == pytest.approx(temperature)
    with safe_open(directory / "weights/classifier.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"])["temperature"] == pytest.approx(temperature)
    after, label = predicted(run, "test")
    before, _ = predicted(run, "test", temperature)
    assert found["ece"] == pytest.approx(calibration_error(after, label), abs=1e-5)
    assert found["ece_uncalibrated"] == pytest.approx(calibration_error(before, label), abs=1e-5)

    def cross_entropy(share: float) -> float:
        probability, of = predicted(run, "val", share)
        return -float(np.log(probability[np.arange(len(of)), of]).mean())

    assert cross_entropy(1.0) < min(cross_entropy(0.95), cross_entropy(1.05))


def test_the_operating_point_is_that_of_validation(found: dict[str, Any], run: LoadedRun) -> None:
    point = found["operating_point"]
    assert point["rule"] == "sensitivity>=0.9"
    probability, label = predicted(run, "val")
    assert point["threshold"] == pytest.approx(choose_operating_point(1 - probability[:, 0], label > 0, point["rule"]))
    probability, label = predicted(run, "test")
    assert abs(point["threshold"] - choose_operating_point(1 - probability[:, 0], label > 0, point["rule"])) > 1e-4
    called = 1 - probability[:, 0] >= point["threshold"]
    assert point["confusion"] == confusion_matrix(label, called, labels=[0, 1]).tolist()
    assert point["sensitivity"] == called[label == 1].mean()
    assert found["auroc"] == pytest.approx(roc_auc_score(label, probability[:, 1]))
    low, high = found["auroc_ci"]
    assert low <= found["auroc"] <= high


def test_the_picture_and_the_line(
    directory: Path, found: dict[str, Any], run: LoadedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(directory / "evaluation/panels/classifier.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("L").getcolors()) > 50
    cfg = run.config
    cfg.evaluation.operating_point = 0.3
    train(cfg, directory)
    said = " ".join(capsys.readouterr().out.split())
    assert f"AUROC {found['auroc']:.3f} [" in said
    assert f"ECE {found['ece']:.3f} ({found['ece_uncalibrated']:.3f} before calibration); from p 0.300: sens" in said
    again = json.loads((directory / "evaluation/metrics.json").read_text())["classifier"]
    assert again["operating_point"]["threshold"] == 0.3
    assert again["sha256"] == found["sha256"], "judged again, not trained again"


def test_a_network_of_known_weights_is_fine_tuned(directory: Path, tmp_path: Path) -> None:
    """Its backbone frozen: only the head differs from what it started from."""
    weights = directory / "weights/classifier.safetensors"
    lines = [f"classifier.pretrained={weights}", "classifier_training.freeze=backbone", "classifier_training.steps=4"]
    cfg = compose(CONF / "classifier_pneumonia.yaml", [*SMALL, f"cache={directory.parent / 'cache'}", *lines])
    train(cfg, tmp_path / "run")
    said = (tmp_path / "run/log.txt").read_text()
    assert f"classifier: starts from {weights}" in said
    assert "random weights" not in said
    before, after = load_run(directory).classifier.network, load_run(tmp_path / "run").classifier.network
    differ = [k for k, v in after.state_dict().items() if not torch.equal(v, before.state_dict()[k])]
    assert differ == ["head.weight", "head.bias"]
