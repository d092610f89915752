"""A run's directory: lock, log, status, signals."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfxai.errors import ConfigError, NumericsError, Preempted
from cfxai.run.directory import Run, environment, locked, opened, shown

log = logging.getLogger("cfxai")


def test_a_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "x") as run:
        run.mark("running")
        code = (
            "import sys; from pathlib import Path\nfrom cfxai.run.directory import opened\n"
            "from cfxai.errors import ConfigError\n"
            "try:\n    opened(Path(sys.argv[1])).__enter__()\nexcept ConfigError as error:\n    print(error)"
        )
        said = subprocess.run([sys.executable, "-c", code, run.directory], capture_output=True, text=True, check=True)
        assert (
            said.stdout.strip() == f"{tmp_path / 'x'}: another process is running here; wait for it, or stop it first."
        )
        assert run.state == "running"
        with pytest.raises(ConfigError, match="another process"), locked(tmp_path / "x"):
            pass
    with opened(tmp_path / "x"):
        pass


def test_the_log_is_kept_and_grows(tmp_path: Path) -> None:
    for line in ("first", "second"):
        with opened(tmp_path):
            log.info(line)
    assert [line.split(" INFO ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]
    assert not log.handlers


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_noted_and_raised_where_it_is_safe(tmp_path: Path, name: str) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with opened(tmp_path) as run:
            run.mark("running")
            run.stop_if_requested()
            os.kill(os.getpid(), signal.Signals[name])
            assert run.stop_requested() == name
            run.part("classifier").stop_if_requested()

    with pytest.raises(Preempted, match=f"stopped by {name}") as caught:
        work()
    assert caught.value.exit_code == 5
    assert str(caught.value).endswith(f"python tools/train.py -cp {tmp_path}"), "the whole run is continued, not a part"
    assert Run(tmp_path).state == "preempted"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("was", "becomes"), [("running", "failed"), ("complete", "complete")])
def test_status_tells_how_a_process_left(tmp_path: Path, was: str, becomes: str) -> None:
    def work() -> None:
        with opened(tmp_path) as run:
            assert run.state == "new"
            run.mark(was)
            raise NumericsError("step 3: loss term kl is not finite.")

    with pytest.raises(NumericsError):
        work()
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == becomes
    assert status.get("why") == ("NumericsError: step 3: loss term kl is not finite." if becomes == "failed" else None)


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    stray = tmp_path / "checkpoints/.last.ckpt.tmp-123"
    stray.parent.mkdir()
    stray.write_bytes(b"half")
    (stray.parent / "last.ckpt").write_bytes(b"whole")
    with opened(tmp_path):
        assert [file.name for file in stray.parent.iterdir()] == ["last.ckpt"]


def test_paths_are_shown_as_one_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "runs/x") == "runs/x"
    assert shown(Path("/somewhere/else")) == "/somewhere/else"


def test_environment_is_json_and_names_what_matters() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"]
    assert found["packages"]["cfxai"]
    assert found["threads"] >= 1
    assert {"python", "platform", "gpu", "git", "command"} <= found.keys()
