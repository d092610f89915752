"""The classifier that a run explains: where it starts from, and waiting for another run that trains the same one."""

from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

from cfxai.artefacts import waiting_for
from cfxai.errors import Preempted
from cfxai.nn.weights import digest
from cfxai.run.directory import Run
from cfxai.training import build


def initial(seed: int) -> str:
    """The weights that training begins with."""
    section = {"_target_": "cfxai.nn.classifiers.compact", "widths": [4], "weights": None}
    torch.rand(int(torch.randint(1, 9, ())))  # what else used random numbers must not matter
    return digest(build(OmegaConf.create({"classifier": section, "method": None, "seed": seed}))["classifier"])


def test_training_starts_from_weights_that_the_seed_decides() -> None:
    assert initial(0) == initial(0) != initial(1)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Any:
    """Another run that holds the lock until it is told to let go."""
    held, let_go = Event(), Event()

    def hold() -> None:
        with FileLock(tmp_path / "key.lock"):
            held.set()
            let_go.wait(20)

    thread = Thread(target=hold)
    thread.start()
    assert held.wait(10)
    yield let_go
    let_go.set()
    thread.join()


def test_a_run_that_waits_for_another_can_be_stopped(tmp_path: Path, elsewhere: Event) -> None:
    run = Run(tmp_path)
    run._stop = "SIGTERM"
    with pytest.raises(Preempted, match="stopped by SIGTERM"), waiting_for(FileLock(tmp_path / "key.lock"), run):
        pass


def test_a_run_goes_on_when_the_other_is_done(tmp_path: Path, elsewhere: Event) -> None:
    elsewhere.set()
    with waiting_for(FileLock(tmp_path / "key.lock"), Run(tmp_path)):
        pass
