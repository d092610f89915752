"""A saved config that is read back to continue its run."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cfxai.cli.saved import load_with
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose


@pytest.mark.parametrize(
    ("experiment", "key"), [("coin_kidney", "method.steps"), ("dae_kidney", "method.autoencoder.steps")]
)
def test_schedules_grow_with_the_training(tmp_path: Path, experiment: str, key: str) -> None:
    OmegaConf.save(compose(CONF / f"{experiment}.yaml", []), tmp_path / "config.yaml")
    continued = load_with(tmp_path, ["trainer.steps=12345"])
    assert OmegaConf.select(continued, key) == 12345
    assert continued.classifier_training.steps == 1800
