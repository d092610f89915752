"""Every preset of conf/data composes and builds, and the published data sets say what they promise."""

import pytest

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.data.anomaly import GaussianAnomaly
from cfxai.data.dataset import Data


def built(preset: str, *lines: str) -> Data:
    return Parts(compose(CONF / "coin_kidney.yaml", [f"data={preset}", *lines], multirun=False))["data"]


@pytest.mark.parametrize("preset", sorted(file.stem for file in (CONF / "data").glob("*.yaml")))
def test_presets_build(preset: str) -> None:
    assert isinstance(built(preset), Data)


def test_the_synthetic_experiment_has_the_defaults_of_its_class() -> None:
    node = compose(CONF / "coin_kidney.yaml", ["data=totalsegmentator"], multirun=False).data.anomaly
    settings = {key: value for key, value in node.items() if key != "_target_"}
    assert GaussianAnomaly(**settings) == GaussianAnomaly()


def test_organ_masks_and_neighbours_are_one_key_away() -> None:
    for preset in ("totalsegmentator", "tuh"):
        assert built(preset, "data.organ_masks=true", "data.neighbours=1").classes == ["normal", "abnormal"]
