"""The ruler of a run: what it learns from, when it is refused, the cache, and runs from before there was one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from test_segmentation import SIDE, discs
from toy import fabric

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.errors import ConfigError, DataError, Preempted
from cfxai.evaluation import evaluate
from cfxai.ruler import needs_ruler, obtain_ruler, ruler_key
from cfxai.run.directory import Run
from cfxai.sweeps import LEVEL_0, RULER
from cfxai.training import build, train

SMALL = (
    *("data=folder", f"data.size={SIDE}", "classifier.widths=[4]", "classifier_training.steps=2"),
    *("trainer.steps=1", "trainer.batch_size=4", "trainer.validation_images=2", "trainer.validate_every=1"),
    *("autoencoder.width=8", "autoencoder.latent=8", "autoencoder.multipliers=[1,2]"),
    *("autoencoder.encoder_multipliers=[1,2]", "method.autoencoder.sampling.steps=1", "method.told=label"),
    *("evaluation.max_images=4", "evaluation.threshold_images=2", "evaluation.panels=0", "evaluation.sweep_images=2"),
    *("evaluation.skip_fid=true", "metrics.segmentation.resamples=10"),
)
UNET = ("ruler=unet", "ruler.network.features=[4,4,4,4,4,4]", "ruler.steps=3", "ruler.batch_size=4")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images, every other one with a disc, and their manifest with masks."""
    folder, drawn = tmp_path_factory.mktemp("pictures"), discs(0, 48)
    images = ((drawn["image"][:, 0] + 1) * 127.5).numpy()
    np.savez(folder / "stack.npz", images=images.astype(np.uint8), masks=drawn["mask"].numpy().astype(np.uint8))
    rows = [
        {"image": f"stack.npz::images::{i}", "mask": f"stack.npz::masks::{i}", "label": i % 2, "patient": f"p{i}"}
        for i in range(48)
    ]
    split = ["train"] * 32 + ["val"] * 8 + ["test"] * 8
    pd.DataFrame(rows).assign(split=split).to_csv(folder / "table.csv", index=False)
    pd.DataFrame(rows).assign(split=split).drop(columns="mask").to_csv(folder / "maskless.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def composed(pictures: Path) -> DictConfig:
    where = (f"data.manifest={pictures / 'table.csv'}", f"cache={pictures / 'cache'}")
    return compose(CONF / "dae_kidney.yaml", [*SMALL, *UNET, *where])


def changed(composed: DictConfig, **settings: Any) -> DictConfig:
    """With other values; __ in a name stands for the dot of its key."""
    cfg = composed.copy()
    for name, value in settings.items():
        OmegaConf.update(cfg, name.replace("__", "."), value)
    return cfg


@pytest.fixture(scope="module")
def directory(composed: DictConfig, pictures: Path) -> Path:
    train(composed, pictures / "run")
    return pictures / "run"


def explained(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "evaluation/metrics.json").read_text())["explainers"]["latent_shift"]


def test_a_run_trains_its_ruler_and_measures_with_it(directory: Path) -> None:
    found = explained(directory)
    assert found["sweep_reference"] == RULER
    assert 0 <= found["ruler_dice"] <= 1
    assert found["ruler_spearman"] is None, "the manifest has no grades"
    with safe_open(directory / "weights/ruler.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["ruler"]["network"]["features"] == [4] * 6
    assert 0 <= about["validation"]["dice"] <= 1
    assert (directory / "ruler/checkpoints/best.ckpt").is_file()


def test_another_run_takes_it_from_the_cache(directory: Path, composed: DictConfig, tmp_path: Path) -> None:
    cfg, other = changed(composed, trainer__steps=9, method__depth=2.0, classifier_training__steps=7), Run(tmp_path)
    obtain_ruler(Parts(cfg), cfg, other, fabric())
    assert (other.weights / "ruler.safetensors").read_bytes() == (directory / "weights/ruler.safetensors").read_bytes()
    assert not (tmp_path / "ruler").exists(), "nothing was trained"


def test_whatever_decides_its_weights_decides_its_key(composed: DictConfig) -> None:
    def key(**settings: Any) -> str:
        cfg = changed(composed, **settings)
        return ruler_key(cfg, Parts({"data": cfg.data, "cache": cfg.cache})["data"])

    deciding = ({}, {"seed": 1}, {"ruler__steps": 4}, {"augment__flip": 0.1}, {"augment": None}, {"data__size": 64})
    keys = [key(**settings) for settings in deciding]
    assert len(set(keys)) == len(deciding)


def test_a_stopped_training_continues_to_the_same_weights(composed: DictConfig, tmp_path: Path) -> None:
    weights = []
    for stopped in (False, True):
        cfg, run = changed(composed, cache=str(tmp_path / f"cache-{stopped}")), Run(tmp_path / f"run-{stopped}")
        run.directory.mkdir()
        if stopped:
            run._stop = "SIGTERM"
            with pytest.raises(Preempted):
                obtain_ruler(build(cfg), cfg, run, fabric())
            run._stop = None
        obtain_ruler(build(cfg), cfg, run, fabric())
        weights.append((run.weights / "ruler.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_it_learns_from_masks_and_says_so_where_there_are_none(
    composed: DictConfig, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^ruler: the abnormal images of split train have no lesion masks"):
        train(changed(composed, data__manifest=str(pictures / "maskless.csv")), tmp_path / "run")
    assert not (tmp_path / "run/classifier").exists(), "before anything is trained"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ruler__network__spatial_dims": 3}, "ruler.network: makes no map of images of 32x32 pixels and 1 channels"),
        ({"ruler__network__in_channels": 3}, "set ruler.network.spatial_dims=2, in_channels=1 and out_channels=1"),
        ({"ruler__network__out_channels": 2}, "set ruler.network.spatial_dims=2, in_channels=1 and out_channels=1"),
        ({"ruler__steps": 0}, "ruler.steps: must be a whole number, 1 or more, got 0."),
        ({"ruler__learning_rate": 0.0}, "ruler.learning_rate: must be more than 0"),
        ({"augment__holes": 0.5}, "augment.holes: a lesion under a hole stays in its mask"),
    ],
)
def test_what_no_ruler_can_be_trained_with_is_refused(
    composed: DictConfig, settings: dict[str, Any], said: str
) -> None:
    cfg = changed(composed, **settings)
    with pytest.raises(ConfigError, match=re.escape(said)):
        needs_ruler(Parts(cfg), cfg)


def test_it_is_not_trained_for_nothing(composed: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    unused = "ruler: not trained, as this run sweeps over no severity"
    for settings, said in (({"evaluation__sweep_images": 0}, True), ({"method": None}, True), ({"ruler": None}, False)):
        caplog.clear()
        cfg = changed(composed, **settings)
        assert not needs_ruler(Parts(cfg), cfg)
        assert (unused in caplog.text) == said


def test_a_run_from_before_there_were_rulers_evaluates_as_before(directory: Path) -> None:
    cfg = OmegaConf.load(directory / "config.yaml")
    del cfg["ruler"]
    OmegaConf.save(cfg, directory / "config.yaml")
    found = evaluate(directory)["explainers"]["latent_shift"]
    assert found["sweep_reference"] == LEVEL_0
    assert found["ruler_dice"] is found["ruler_spearman"] is None
