"""A user's image at several severities: in its own geometry, and written by the command."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from small_run import KIDNEY
from untrained_run import Dim, Gradual, legible, untrained_run

from cfxai.cli.explain import explain_command
from cfxai.config.compose import compose
from cfxai.errors import ConfigError, DataError
from cfxai.loaded import LoadedRun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """Of pictures, whole and over their full range."""
    return legible(untrained_run(tmp_path_factory.mktemp("sweeps"), pictures=True), Gradual)


def spot(side: int = 64) -> np.ndarray:
    picture = np.full((side, side), 40, np.uint8)
    picture[side // 4 : side // 2, side // 4 : side // 2] = 230
    return picture


def test_an_image_at_every_level_on_its_own_grid(run: LoadedRun) -> None:
    values = spot()
    found = run.sweep(values)
    assert found.levels == pytest.approx(np.linspace(0, 1, 9))
    inside, rim = values == 230, np.zeros(values.shape, bool)
    rim[14:34, 14:34], rim[18:30, 18:30] = True, False
    for level, image, probability in zip(found.levels, found.images, found.probabilities, strict=True):
        assert image.shape == values.shape
        assert np.array_equal(image[~inside & ~rim], values[~inside & ~rim]), "untouched to the last bit"
        assert image[inside & ~rim] == pytest.approx((level + 1) * 127.5, abs=1e-3)
        assert probability["abnormal"] == pytest.approx(1 / (1 + np.exp(-8 * (level - 0.5))), abs=1e-5)
    assert found.images[0] == pytest.approx(run.explain(values).counterfactual, abs=1e-3)
    assert found.before == run.explain(values).before
    assert run.severity(run.open(values)) == pytest.approx(230 / 127.5 - 1, abs=1e-5)
    asked = run.sweep(values, [0.3])
    assert asked.levels == (0.3,)
    assert asked.images[0][20, 20] == pytest.approx(1.3 * 127.5, abs=1e-3)


def test_a_volume_in_slices_whole_or_one_of_them(run: LoadedRun) -> None:
    volume = np.stack([spot(), spot() + 20, spot()])
    opened = run.open(volume)
    whole, one = run.sweep(opened, [0, 1]), run.sweep(opened.only(1), [0, 1])
    assert whole.images[0].shape == volume.shape
    assert all((image != volume).any((1, 2)).all() for image in whole.images)
    for image, expected in zip(one.images, whole.images, strict=True):
        assert np.array_equal(image[1], expected[1])
        assert np.array_equal(image[[0, 2]], volume[[0, 2]])
    with pytest.raises(DataError, match="slice 7 is none of those"):
        opened.only(7)


def test_what_cannot_be_swept_is_one_sentence(run: LoadedRun) -> None:
    with pytest.raises(ConfigError, match="name at least one"):
        run.sweep(spot(), [])
    plain = legible(run.run.directory, Dim)
    with pytest.raises(ConfigError, match="has no scale of severity; name a run of method=latent_shift"):
        plain.sweep(spot())
    assert plain.severity(plain.open(spot())) is None
    with pytest.raises(ConfigError, match="sweep_images: must be 0 or more"):
        compose(Path(KIDNEY), ["evaluation.sweep_images=-1"])


def test_the_command_writes_strip_and_animation(
    run: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pil.fromarray(spot()).save(tmp_path / "a.png")
    monkeypatch.setattr("cfxai.loaded.load_run", lambda path: run)
    words = ["-cp", str(run.run.directory), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--sweep"]
    assert explain_command(words) == 0
    assert {"a-sweep.png", "a-sweep.gif", "a-counterfactual.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    with open(tmp_path / "out/explanations.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    monkeypatch.setattr("cfxai.loaded.load_run", lambda path: legible(run.run.directory, Dim))
    with pytest.raises(ConfigError, match="no scale of severity"):
        explain_command([*words[:3], "--out", str(tmp_path / "other"), "--sweep"])
    assert not (tmp_path / "other").exists()
