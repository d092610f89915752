"""Nothing breaks a run: bad numbers, signals, kills at any moment."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from processes import Forks, Process
from small_run import COIN, KIDNEY, TINY, forks, metrics, place, status, steps, weights

__all__ = ["forks", "place"]  # fixtures


def test_numbers_that_are_not_finite_end_it_with_code_4(forks: Forks, place: Path) -> None:
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


def test_signals_save_and_a_second_process_is_refused(forks: Forks, place: Path) -> None:
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
