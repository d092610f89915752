"""Whole runs of CycleGAN and latent shift on phantoms of a few patients: what they leave and what is in it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cfxai import load_run
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.latents.store import load_store
from cfxai.nn.weights import digest
from cfxai.report import tables
from cfxai.training import train

CLASSIFIER = ("classifier_training.steps=10", "classifier_training.batch_size=4", "classifier.widths=[4,8]")
CHEST = ("data.phantom.patients=30", "data.phantom.size=32", "data.size=32", "evaluation.panels=4")
KIDNEY = (
    *("data.phantom.patients=12", "data.phantom.size=64", "data.phantom.spacing=6.0", "data.phantom.slices=6"),
    *("data.phantom.slice_thickness=16.0", "data.size=32", "data.min_lesion_area=0", "data.min_organ_area=100"),
    *("evaluation.panels=4", "evaluation.threshold_images=4", "evaluation.max_images=12"),
)
TRAINER = ("trainer.batch_size=4", "trainer.validate_every=4", "trainer.checkpoint_every=4")


def run(folder: Path, experiment: str, *settings: str) -> tuple[Path, dict[str, Any]]:
    cfg = compose(CONF / f"{experiment}.yaml", [*CLASSIFIER, *TRAINER, *settings, f"cache={folder / 'cache'}"])
    train(cfg, folder / experiment)
    found = json.loads((folder / experiment / "evaluation/metrics.json").read_text())
    return folder / experiment, found


@pytest.fixture(scope="module")
def cyclegan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return run(
        tmp_path_factory.mktemp("cyclegan"), "cyclegan_pneumonia", *CHEST, "oracle.widths=[4,4]", "trainer.steps=4",
        "trainer.validation_images=8", "generator.widths=[4,8]", "discriminator.widths=[4,8]",
    )  # fmt: skip


def test_cyclegan_is_judged_both_ways_beside_its_control(cyclegan: tuple[Path, dict[str, Any]]) -> None:
    directory, found = cyclegan
    ours, control = found["explainers"]["cyclegan"], found["control"]
    for name in ("high_frequency_energy", "cycle_l1", "identity_l1", "ssim", "sparsity", "target_probability"):
        assert 0 <= ours[name] <= 1, name
    for name in ("flip_rate_to_normal", "flip_rate_to_abnormal", "oracle_flip_rate"):
        assert name in ours
        assert ours[name] is None or 0 <= ours[name] <= 1
    assert list(found["explainers"]) == ["cyclegan"]  # the control explains nothing
    assert control["high_frequency_energy"] > ours["high_frequency_energy"]
    assert found["ceiling"]["cycle_l1"] is None
    assert (directory / "evaluation/panels/made_abnormal.png").is_file()
    with open(directory / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_cycle_plain"]) <= float(last["val_cycle_blurred"]) + 0.1


def test_the_oracle_is_another_network_trained_by_itself(cyclegan: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = cyclegan
    loaded = load_run(directory)
    assert (directory / "weights/oracle.safetensors").is_file()
    assert (directory / "oracle/checkpoints").is_dir()
    assert digest(loaded.classifier) != digest(loaded.parts["oracle"])


def test_latent_shift_leaves_latents_and_says_how_its_head_reads(tmp_path: Path) -> None:
    directory, found = run(
        tmp_path, "dae_kidney_graded", *KIDNEY, "trainer.steps=4", "trainer.validation_images=4",
        "autoencoder.width=8", "autoencoder.latent=8", "autoencoder.multipliers=[1,2]",
        "autoencoder.encoder_multipliers=[1,2]", "method.autoencoder.sampling.steps=3",
        "data.grade_areas=[400]", "method.space.classes=3", "evaluation.sweep_images=2",
        "ruler.steps=3", "ruler.batch_size=4",
    )  # fmt: skip
    ours = found["explainers"]["latent_shift"]
    assert 0 <= ours["head_auroc"] <= 1
    assert ours["grade_mae"] >= 0
    shown = next(table for table in tables(found) if table.title == "head on z")
    cells = {str(column.header): next(iter(column.cells)) for column in shown.columns}
    assert cells["explainer"] == "latent_shift"
    assert str(cells["AUROC"]).startswith(f"{ours['head_auroc']:.3f} [")
    assert cells["grade MAE"] == f"{ours['grade_mae']:.3f}"
    store = load_store(directory / "latents", digest(load_run(directory).parts["method"].network))
    assert store.z.shape[1] == 8
    assert set(store.split) == {"train", "val", "test"}
    assert store.grades is not None
    assert (directory / "latents/latents.npz").is_file()
