"""The whole job as users start it, on a phantom of a dozen patients: what it leaves, and that nothing breaks it."""

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from processes import ROOT, Forks, Process
from safetensors.numpy import load_file

from cfxai.config.catalogue import CONF

TINY = (
    *("data.phantom.patients=12", "data.phantom.size=64", "data.phantom.spacing=6.0", "data.phantom.slices=6"),
    *("data.phantom.slice_thickness=16.0", "data.size=32", "data.min_lesion_area=0", "data.min_organ_area=100"),
    *("classifier.widths=[4,8]", "classifier_training.steps=20", "classifier_training.batch_size=8"),
    *("classifier_training.validate_every=10", "metrics.segmentation.resamples=50", "evaluation.panels=3"),
)
COIN = (
    *("trainer.steps=8", "trainer.batch_size=4", "trainer.validate_every=4", "trainer.checkpoint_every=2"),
    *("trainer.validation_images=8", "generator.widths=[4,8]", "discriminator.widths=[4,8]"),
)
RISE = "attribution.rise.masks=20"
KIDNEY, CLASSIFIER = str(CONF / "coin_kidney.yaml"), str(CONF / "classifier_kidney.yaml")

TOP = {"split", "images", "patients", "cf_threshold", "classifier", "explainers", "ceiling"}
EXPLAINER = {
    *("iou", "iou_ci", "dice", "pixel_auprc", "pointing_game", "flip_rate", "counterfactual_validity", "l1"),
    *("normal_changed_area", "fid", "kid", "threshold", "seconds_per_image"),
}
OF_COUNTERFACTUALS = {"flip_rate", "l1", "normal_changed_area", "kid"}


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


# What a run leaves


def test_the_run_directory(run: Path) -> None:
    found = {str(file.relative_to(run)) for file in run.rglob("*")}
    assert {
        *("config.yaml", "environment.json", "manifest.csv", "status.json", "log.txt", "metrics.csv"),
        *("checkpoints/last.ckpt", "checkpoints/best.ckpt", "samples/step_000004.png", "samples/step_000008.png"),
        *(f"weights/{name}.safetensors" for name in ("classifier", "generator", "discriminator", "average")),
        *("classifier/metrics.csv", "classifier/checkpoints/best.ckpt"),
        *("evaluation/metrics.json", "evaluation/panels/overview.png"),
    } <= found
    assert any(name.startswith("tensorboard/events.") for name in found)
    assert not any(".tmp-" in name for name in found)
    assert status(run) == "complete"
    assert steps(run) == list(range(8))
    assert steps(run / "classifier") == list(range(20))


def test_what_the_terminal_says(finished: subprocess.CompletedProcess[str], run: Path) -> None:
    said = " ".join(finished.stdout.split())
    for name in ("coin", "rise", "score_cam", "layer_cam", "ceiling"):
        assert f"│ {name} " in said
    assert "run directory runs/coin_kidney" in said
    assert "next python tools/eval_counterfactual.py -cp runs/coin_kidney -cft 0.25" in said
    assert "Traceback" not in finished.stderr


def test_metrics_json(run: Path) -> None:
    found = metrics(run)
    assert found.keys() >= TOP
    assert found["split"] == "test"
    assert found["images"] > found["patients"] == 2
    assert found["classifier"].keys() >= {"auroc", "accuracy"}
    assert list(found["explainers"]) == ["coin", "rise", "score_cam", "layer_cam"]
    for name, explainer in [*found["explainers"].items(), ("ceiling", found["ceiling"])]:
        assert explainer.keys() >= EXPLAINER, name
        assert all(explainer[key] is not None for key in ("iou", "dice", "pixel_auprc", "threshold"))
        assert explainer["seconds_per_image"] >= 0
        for key in OF_COUNTERFACTUALS:
            assert (explainer[key] is not None) == (name in ("coin", "ceiling")), (name, key)
        assert explainer["fixed"]["threshold"] == (0.25 if name in ("coin", "ceiling") else 0.975)
    assert found["cf_threshold"] == found["explainers"]["coin"]["threshold"]
    assert found["threshold_rules"][0] == "coin: highest pooled IoU on validation"
    assert found["ceiling"]["iou"] > 0.4
    assert found["ceiling"]["normal_changed_area"] == 0
    assert found["realism"].startswith("features of the classifier (")


def test_config_and_manifest_say_what_was_used(run: Path) -> None:
    config: Any = OmegaConf.load(run / "config.yaml")
    assert (config.trainer.steps, config.method.steps, config.trainer.batch_size) == (8, 8, 4)
    with open(run / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    for row in rows[:3]:
        assert hashlib.sha256(Path(row["image"]).read_bytes()).hexdigest() == row["sha256"]


def test_masks_lie_on_the_volumes_they_belong_to(run: Path) -> None:
    with open(run / "manifest.csv", newline="") as file:
        volumes = {Path(row["image"]).name: row["image"] for row in csv.DictReader(file) if row["split"] == "test"}
    written = {file.name: file for file in (run / "evaluation/masks").iterdir()}
    assert written.keys() == volumes.keys()
    for name, file in written.items():
        mask, volume = nibabel.load(file), nibabel.load(volumes[name])
        assert mask.shape == volume.shape
        assert np.array_equal(mask.affine, volume.affine)
        assert set(np.unique(mask.get_fdata())) <= {0, 1}


def test_panels_are_pictures(run: Path) -> None:
    panels = list((run / "evaluation/panels").glob("*.png"))
    assert len(panels) == 4
    for file in [*panels, *(run / "samples").glob("*.png")]:
        with Image.open(file) as picture:
            assert min(picture.size) > 100


# Evaluating again


@pytest.fixture(scope="module")
def evaluated(forks: Forks, run: Path) -> Any:
    def evaluate(*flags: str) -> dict[str, Any]:
        forks.run("eval_counterfactual", "-cp", str(run), *flags)
        return metrics(run)

    return evaluate


def test_at_coins_threshold(evaluated: Any, run: Path) -> None:
    before, earlier = metrics(run), len(list(run.glob("evaluation-*")))
    found = evaluated("-cft", "0.25")
    assert (found["cf_threshold"], found["cf_threshold_rule"]) == (0.25, "fixed")
    coin, rise = found["explainers"]["coin"], found["explainers"]["rise"]
    assert (coin["threshold"], rise["threshold"]) == (0.25, 0.975)
    assert coin["fixed"] == before["explainers"]["coin"]["fixed"]
    assert coin["auto"] == before["explainers"]["coin"]["auto"]
    assert found["threshold_rules"][0] == "coin: fixed, not chosen from data"
    assert len(list(run.glob("evaluation-*"))) == earlier + 1, "the earlier evaluation is kept"
    again = evaluated("-cft", "auto", "-st", "0.5")
    assert again["cf_threshold"] == before["cf_threshold"]
    assert again["explainers"]["rise"]["threshold"] == 0.5


def test_which_attributors_and_without_fid(evaluated: Any) -> None:
    found = evaluated("-at", "layer_cam", "-sf")
    assert list(found["explainers"]) == ["coin", "layer_cam"]
    assert found["explainers"]["coin"]["kid"] is found["explainers"]["coin"]["fid"] is found["realism"] is None
    everything = evaluated("-at", "all", "-pcf", "-t", "0.5")
    assert set(everything["explainers"]) == {"coin", "rise", "score_cam", "layer_cam"}
    assert (everything["postprocess"], everything["tau"]) == (True, 0.5)


def test_a_checkpoint_by_name_and_the_log_of_it_all(forks: Forks, run: Path) -> None:
    forks.run("eval_counterfactual", "-cp", str(run / "checkpoints/last.ckpt"), "-at", "layer_cam", "-sf")
    assert "judging layer_cam" in (run / "log.txt").read_text()


def test_a_damaged_checkpoint_is_one_sentence(forks: Forks, run: Path) -> None:
    broken = run / "checkpoints/broken.ckpt"
    broken.write_bytes((run / "checkpoints/last.ckpt").read_bytes()[:-100])
    said = forks.run("eval_counterfactual", "-cp", str(broken), code=3)
    assert "broken.ckpt: is not a whole checkpoint" in said
    assert "Traceback" not in said
    broken.unlink()


# Names, sweeps, other experiments


def test_a_complete_run_says_so_and_a_longer_one_goes_on(forks: Forks, run: Path) -> None:
    before = weights(run)
    assert "this run is already complete" in forks.run("train", "-cp", str(run))
    assert weights(run) == before
    said = forks.run("train", "-cp", str(run), "trainer.steps=10", "evaluation.attributors=[]")
    assert "training coin: continuing from step 8" in said
    assert steps(run) == list(range(10))
    assert OmegaConf.load(run / "config.yaml").method.steps == 10  # type: ignore[union-attr]


def test_a_sweep_trains_its_classifier_once_and_leaves_a_table(forks: Forks, place: Path, run: Path) -> None:
    cached = place / ".cfxai/classifiers"
    before = {file.name for file in cached.glob("*.safetensors")}
    forks.run(
        "train", "-c", KIDNEY, *TINY, *COIN, "seed=1", "trainer.steps=2", "evaluation.attributors=[]",
        "run.name=sweep", "-m", "loss.kl=0.5,1",
    )  # fmt: skip
    assert len({file.name for file in cached.glob("*.safetensors")} - before) == 1
    jobs = [place / "runs/sweep" / name for name in ("0", "1")]
    assert [status(job) for job in jobs] == ["complete", "complete"]
    assert (jobs[0] / "classifier").is_dir()
    assert not (jobs[1] / "classifier").exists()
    assert weights(jobs[0])["classifier.safetensors"] == weights(jobs[1])["classifier.safetensors"]
    assert weights(jobs[0])["generator.safetensors"] != weights(jobs[1])["generator.safetensors"]
    with open(place / "runs/sweep/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss.kl"] for row in rows] == ["0.5", "1"]
    assert all(row["objective"] and not row["error"] for row in rows)


def test_names_and_given_weights_and_a_classifier_alone(forks: Forks, place: Path, run: Path) -> None:
    given = f"classifier.weights={run / 'weights/classifier.safetensors'}"
    for expected in ("x", "x-2"):
        forks.run("train", "-c", CLASSIFIER, *TINY, "run.name=x", given)
        found = metrics(place / "runs" / expected)
        assert found["explainers"] == {}
        assert found["classifier"] == metrics(run)["classifier"]
        assert not (place / "runs" / expected / "classifier").exists(), "nothing was trained"
        ours, theirs = (load_file(r / "weights/classifier.safetensors") for r in (place / "runs" / expected, run))
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    forks.run("train", "-c", CLASSIFIER, *TINY, "classifier_training.steps=4", "run.name=y")
    assert steps(place / "runs/y/classifier") == list(range(4))
    assert metrics(place / "runs/y")["classifier"]["auroc"] is not None
    forks.run("eval_counterfactual", "-cp", "runs/y", "-at", "layer_cam")
    assert list(metrics(place / "runs/y")["explainers"]) == ["layer_cam"]


def test_real_volumes_by_one_override(forks: Forks, place: Path, run: Path) -> None:
    """The phantom's volumes as if they were a hospital's."""
    manifest = next((place / ".cfxai/phantom").glob("*/manifest.csv"))
    tiny = [word for word in TINY if "phantom" not in word]
    forks.run(
        "train", "-c", KIDNEY, "data=nifti", f"data.manifest={manifest}", *tiny, *COIN, "data.organ_labels=[1,2,3]",
        "data.lesion_labels=[2]", "evaluation.attributors=[layer_cam]", "trainer.steps=2", "run.name=volumes",
    )  # fmt: skip
    found = metrics(place / "runs/volumes")
    assert list(found["explainers"]) == ["coin", "layer_cam"]
    assert len(list((place / "runs/volumes/evaluation/masks").glob("*.nii.gz"))) == found["patients"]


# Breaking it


def test_numbers_that_are_not_finite_end_it_with_code_4(forks: Forks, place: Path, run: Path) -> None:
    said = forks.run("train", "-c", KIDNEY, *TINY, *COIN, "loss.kl=1e39", "run.name=hot", code=4)
    assert "step 0: loss term kl of the generator is not finite" in said
    assert "Traceback" not in said
    assert status(place / "runs/hot") == "failed"


def wait_for(condition: Any, process: Process) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.running, process.log.read_text()[-2000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_signals_save_and_a_second_process_is_refused(forks: Forks, place: Path, run: Path) -> None:
    long, done = place / "runs/long", 0

    def goes_on() -> bool:
        return (long / "metrics.csv").is_file() and len(steps(long)) > done + 3

    for name in ("SIGTERM", "SIGUSR1"):
        start = ["-cp", "runs/long"] if done else ["-c", KIDNEY, *TINY, *COIN, "run.name=long", "trainer.steps=100000"]
        process = forks.start("train", *start)
        wait_for(goes_on, process)
        second = forks.run("train", "-cp", "runs/long", code=2)
        assert "runs/long: another process is running here" in second
        assert "another process" in forks.run("eval_counterfactual", "-cp", "runs/long", code=2)
        os.kill(process.pid, signal.Signals[name])
        assert process.wait() == 5
        assert f"stopped by {name}; the run is saved, continue it with" in process.output
        assert "python tools/train.py -cp runs/long" in process.output
        assert status(long) == "preempted"
        assert len(steps(long)) > done
        done = len(steps(long))
        assert steps(long) == list(range(done))
    forks.run("train", "-cp", "runs/long", f"trainer.steps={done + 1}", "evaluation.attributors=[]")
    assert steps(long) == list(range(done + 1))
    assert status(long) == "complete"


def test_kill_at_random_moments_and_continue_gives_the_same_weights(forks: Forks, place: Path) -> None:
    """SIGKILL at any moment of the whole job, each time continued by -cp: the weights are those of a run left alone.

    CFXAI_KILLS says how many; a run that completes is compared, and another one is begun for the kills that remain.
    """
    kills, chance = int(os.environ.get("CFXAI_KILLS", "4")), random.Random(0)
    command = ("train", "-c", KIDNEY, *TINY, *COIN, "trainer.validate_every=2", "evaluation.attributors=[layer_cam]")
    began = time.monotonic()
    forks.run(*command, "run.name=alone", "cache=alone")
    duration = time.monotonic() - began
    expected, numbers = weights(place / "runs/alone"), comparable(place / "runs/alone")
    killed = attempt = 0
    while killed < kills:
        attempt += 1
        run = place / f"runs/killed{attempt}"
        start = (*command, f"run.name={run.name}", f"cache={run.name}")
        while not (run / "status.json").is_file() or status(run) != "complete":
            process, began = forks.start(*start), time.monotonic()
            if killed < kills:
                time.sleep(chance.uniform(0, duration / 2))
                if process.running:
                    os.kill(process.pid, signal.SIGKILL)
            code = process.wait()
            assert code in (0, -signal.SIGKILL), process.log.read_text()[-3000:]
            killed += code != 0
            if code == 0 and "-c" in start:
                duration = min(duration, time.monotonic() - began)
            if (run / "config.yaml").is_file():
                start = ("train", "-cp", str(run))
            elif run.exists():
                run.rename(place / f"nothing-{killed}")  # it was killed before it had begun
        assert settings(run) == settings(place / "runs/alone"), "conf/ was edited while this ran"
        assert weights(run) == expected
        assert comparable(run) == numbers
        assert steps(run) == list(range(8))


def settings(run: Path) -> dict[str, Any]:
    """The run's config apart from names."""
    config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return {key: value for key, value in config.items() if key not in ("run", "cache")}


def comparable(run: Path) -> dict[str, Any]:
    """What metrics.json says apart from names and times."""
    found = metrics(run)
    del found["run"]
    for explainer in (*found["explainers"].values(), found["ceiling"]):
        del explainer["seconds_per_image"]
    return found
