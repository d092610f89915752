"""The whole job as users start it: what it leaves, judging it again, and other ways to start it."""

import csv
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from processes import Forks
from safetensors.numpy import load_file
from small_run import CLASSIFIER, COIN, KIDNEY, TINY, finished, forks, metrics, place, run, status, steps, weights

import cfxai
from cfxai.config.catalogue import options
from cfxai.errors import ConfigError
from cfxai.protocols import Explainer

__all__ = ["finished", "forks", "place", "run"]  # fixtures

TOP = {"split", "images", "patients", "cf_threshold", "classifier", "explainers", "ceiling"}
EXPLAINER = {
    *("iou", "iou_ci", "dice", "pixel_auprc", "pointing_game", "flip_rate", "counterfactual_validity", "l1"),
    *("normal_changed_area", "fid", "kid", "threshold", "seconds_per_image"),
}
OF_COUNTERFACTUALS = {"flip_rate", "l1", "normal_changed_area", "kid"}


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
    assert len(panels) == 5, "the classifier, an overview, and each of three images"
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


def test_all_attributors_with_faithfulness_and_sanity(evaluated: Any, run: Path) -> None:
    found = evaluated("-at", "all", "-pcf", "-t", "0.5", "-fa", "-sa", "-sf")
    assert (found["postprocess"], found["tau"]) == (True, 0.5)
    maps = {name: block for name, block in found["explainers"].items() if name != "coin"}
    assert maps.keys() | found["refused"].keys() == options("attribution").keys()
    assert "attention_rollout: this network" in found["refused"]["attention_rollout"]
    for name, block in maps.items():
        assert 0 <= block["deletion"] <= 1, name
        assert "sanity" in block, name
    assert (run / "evaluation/panels/sanity.png").is_file()


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


# Studying regions, and the run as an object


def test_regions_of_a_run(forks: Forks, run: Path) -> None:
    command = ("regions", "-cp", str(run), "regions=grid", "regions.rows=1", "regions.columns=2", "-p", "100")
    for folder in ("grid", "grid-1"):
        said = forks.run(*command, "-at", "layer_cam")
        assert (run / "regions" / folder / "index.html").is_file()
        assert "Abnormal and normal images: share of the map in each region" in said
    table = pd.read_csv(run / "regions/grid/scores.csv")
    assert set(table["method"]) == {"coin", "layer_cam"}
    assert table.groupby(["id", "method"])["share"].sum().dropna().to_numpy() == pytest.approx(1, abs=1e-4)
    assert json.loads((run / "regions/grid/tests.json").read_text())["sections"][0]["title"].startswith("Abnormal")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["regions=gird"], "regions=gird: no such option; did you mean grid?"),
        (
            ["regions=grid", "regions.row=2"],
            "regions.row: cfxai.regions.grid.Grid takes no such argument; did you mean",
        ),
        (["regions=grid", "-ct", "1", "1"], "--contrast 1 1: needs two different classes; there are 0 = normal, 1 ="),
        (["regions=grid", "--findings", "x.csv"], "--findings and --terms go together"),
        (["regions=organ"], "data.organ_masks=true"),
    ],
)
def test_regions_that_cannot_be_studied(forks: Forks, run: Path, words: list[str], said: str) -> None:
    output = forks.run("regions", "-cp", str(run), *words, code=3 if words == ["regions=organ"] else 2)
    assert said in output
    assert "Traceback" not in output


def test_a_run_as_an_object(run: Path) -> None:
    loaded = cfxai.load_run(run)
    batch = loaded.data.split("test").batch([0, 1])
    assert isinstance(loaded.method, Explainer)
    counterfactual = loaded.method.generate(batch["image"], torch.zeros(2, dtype=torch.long))
    assert counterfactual.difference.shape == batch["image"][:, 0].shape
    saliency = loaded.attributor("rise", masks=8).attribute(batch["image"], batch["label"])
    assert saliency.shape == counterfactual.difference.shape
    assert loaded.regions("grid", rows=2, columns=1)(batch).shape[:2] == (2, 2)
    with pytest.raises(ConfigError, match="regions=grd: no such option; did you mean grid"):
        loaded.regions("grd")
    with pytest.raises(ConfigError, match=r"attribution\.rise\.mask"):
        loaded.attributor("rise", mask=8)


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
