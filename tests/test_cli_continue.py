"""`-cp RUN`: a run is continued as it was configured. Training is a stand-in."""

from pathlib import Path
from typing import Any

import pytest
from command_line import complaint, exit_code, stand_in_project
from omegaconf import OmegaConf

from cfxai.run.locate import locate

project = pytest.fixture(stand_in_project)


def test_a_run_is_continued_as_it_was_configured(project: Path) -> None:
    exit_code("-c small.yaml seed=3")
    assert exit_code("-cp runs/small trainer.steps=99 evaluation.tau=0.5") == 0
    saved: Any = OmegaConf.load("runs/small/config.yaml")
    assert (saved.seed, saved.trainer.steps, saved.evaluation.tau) == (3, 99, 0.5)
    assert [path.name for path in Path("runs").iterdir()] == ["small"]


def test_settings_newer_than_the_run_have_their_defaults(project: Path) -> None:
    exit_code("-c small.yaml")
    file = Path("runs/small/config.yaml")
    saved: Any = OmegaConf.load(file)
    del saved.trainer["log_every"]
    OmegaConf.save(saved, file)
    assert exit_code("-cp runs/small") == 0
    assert "log_every" in file.read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-cp runs/smal", "no such run; did you mean runs/small?"),
        ("-cp small.yaml", "is not a run"),
        ("-cp runs/sweep", "is a sweep; name one of its runs: runs/sweep/0, runs/sweep/1"),
        ("-cp runs/small seed=4", "only trainer.* and evaluation.* can change"),
        ("-cp runs/small trainer={steps:4}", "only trainer.* and evaluation.* can change"),
        ("-cp runs/small trainer.stepz=4", "trainer.stepz: no such key; did you mean trainer.steps?"),
        ("-cp runs/small trainer.steps=abc", "trainer.steps: expected a whole number, got 'abc'"),
        ("-cp runs/small trainer.steps=0", "trainer.steps: must be more than 0"),
        ("-cp runs/small -m", "-cp continues one run"),
        ("-cp runs/small/checkpoints/best.ckpt", "continues from its last checkpoint; name the run: -cp runs/small"),
    ],
)
def test_what_cannot_be_continued(project: Path, line: str, said: str) -> None:
    exit_code("-c small.yaml")
    for job in "01":
        Path("runs/sweep", job).mkdir(parents=True)
        Path("runs/sweep", job, "config.yaml").touch()
    Path("runs/small/checkpoints").mkdir()
    Path("runs/small/checkpoints/best.ckpt").touch()
    assert said in complaint(line)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: !!python/object/apply:os.system [x]",
        "method: {_target_: os.system}",
        "trainer: {stepz: 1}",
        "- 1",
    ],
)
def test_a_damaged_config_is_refused(project: Path, text: str) -> None:
    exit_code("-c small.yaml")
    Path("runs/small/config.yaml").write_text(text)
    assert exit_code("-cp runs/small") == 2


def test_a_path_inside_a_run_names_the_run(project: Path) -> None:
    exit_code("-c small.yaml")
    checkpoints = Path("runs/small/checkpoints")
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").touch()
    assert locate(checkpoints / "last.ckpt") == (Path("runs/small"), checkpoints / "last.ckpt")
    assert locate(checkpoints) == locate(Path("runs/small")) == (Path("runs/small"), None)
    assert exit_code(f"-cp {checkpoints / 'last.ckpt'}") == 0
