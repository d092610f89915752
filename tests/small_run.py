"""The whole job on a phantom of a dozen patients: settings, what a run left, and the run that most tests share.

Import the fixtures `place`, `forks`, `finished` and `run` into a test module; each module has a run of its own.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, Forks

from cfxai.config.catalogue import CONF

TINY = (
    *("data.phantom.patients=12", "data.phantom.size=64", "data.phantom.spacing=6.0", "data.phantom.slices=6"),
    *("data.phantom.slice_thickness=16.0", "data.size=32", "data.min_lesion_area=0", "data.min_organ_area=100"),
    *("classifier.widths=[4,8]", "classifier_training.steps=20", "classifier_training.batch_size=8"),
    *("classifier_training.validate_every=10", "metrics.segmentation.resamples=50", "evaluation.panels=3"),
    *("evaluation.threshold_images=12", "evaluation.sanity_images=2"),
)
COIN = (
    *("trainer.steps=8", "trainer.batch_size=4", "trainer.validate_every=4", "trainer.checkpoint_every=2"),
    *("trainer.validation_images=8", "generator.widths=[4,8]", "discriminator.widths=[4,8]"),
)
RISE = "attribution.rise.masks=20"
KIDNEY, CLASSIFIER = str(CONF / "coin_kidney.yaml"), str(CONF / "classifier_kidney.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def forks(place: Path) -> Iterator[Forks]:
    with Forks(place) as started:
        yield started


@pytest.fixture(scope="module")
def finished(place: Path) -> subprocess.CompletedProcess[str]:
    """The run of most tests, by the very command."""
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", KIDNEY, *TINY, *COIN, RISE]
    return subprocess.run(
        command, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(place: Path, finished: subprocess.CompletedProcess[str]) -> Path:
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    return place / "runs/coin_kidney"


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation/metrics.json").read_text())


def weights(run: Path) -> dict[str, str]:
    """sha256 of each weights file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (run / "weights").iterdir()}


def steps(run: Path) -> list[int]:
    with open(run / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def status(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["state"]
