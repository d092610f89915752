"""bootstrap.py with a stand-in for the environment's Python, which notes what it is asked to do."""

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")

STAND_IN = """#!/bin/sh
echo "$@" >> "{calls}"
case "$*" in
    *"pip install uv"*) sleep "${{SLOW:-0}}" ;;
    *"uv pip install"*) exit "${{UV:-0}}" ;;
    *"pip install"*) echo no such package; exit "${{PIP:-0}}" ;;
    program*) pwd; exit 7 ;;
esac
"""


class Project:
    """A copy of bootstrap.py in a folder of its own, beside a `.venv` whose Python is the stand-in."""

    def __init__(self, root: Path) -> None:
        self.root, self.script, self.log = root, root / "bootstrap.py", root / "calls"
        shutil.copy(Path(__file__).parents[1] / "bootstrap.py", self.script)
        (root / "pyproject.toml").write_text("[project]")
        self.python = self.stand_in(root / ".venv" / "bin" / "python")

    def stand_in(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STAND_IN.format(calls=self.log))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    def start(self, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], **variables}
        command, pipe = [sys.executable, str(self.script), *arguments], subprocess.PIPE
        return subprocess.Popen(command, env=environment, cwd=cwd, stdout=pipe, stderr=pipe, text=True)

    def call(self, *arguments: str, cwd: Path | None = None, **variables: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = self.start(*arguments, cwd=cwd, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What the stand-in was asked since the last question."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "a project"
    folder.mkdir()
    return Project(folder)


def test_installs_at_the_first_call_and_is_silent_afterwards(project: Project) -> None:
    code, out, err = project.call("program", "a b", "-c", "x.yaml")
    *installing, last = project.calls()
    assert code == 7
    assert err.count("bootstrap:") == 1
    assert any("uv pip install --editable .[dev]" in line for line in installing)
    assert last == "program a b -c x.yaml"

    assert project.call("program") == (7, out, "")
    assert project.calls() == ["program"]


def test_the_program_runs_where_the_user_stands(project: Project, tmp_path: Path) -> None:
    assert project.call("program", cwd=tmp_path)[1] == f"{tmp_path}\n"


def test_without_arguments_it_only_installs(project: Project) -> None:
    assert project.call()[0] == 0
    assert "uv pip install" in project.calls()[-1]


@pytest.mark.parametrize("change", ["pyproject", "moved"])
def test_installs_again_after_a_change(project: Project, change: str) -> None:
    project.call()
    project.calls()
    if change == "pyproject":
        (project.root / "pyproject.toml").write_text("[project]  # changed")
    else:
        project.script = project.root.rename(project.root.with_name("elsewhere")) / "bootstrap.py"
        project.log.parent.mkdir()
    project.call()
    assert any("uv pip install" in line for line in project.calls())


def test_pip_where_uv_cannot_install(project: Project) -> None:
    assert project.call("program", UV="1")[0] == 7
    assert "-m pip install --editable .[dev]" in project.calls()


def test_a_failed_installation_is_shown_and_done_again(project: Project) -> None:
    code, out, err = project.call("program", UV="1", PIP="1")
    assert (code, out) == (1, "")
    assert "no such package" in err
    assert "program" not in project.calls()

    assert project.call("program")[0] == 7


def test_two_at_once_install_once(project: Project) -> None:
    first = project.start(SLOW="2")
    while not project.log.exists():
        time.sleep(0.02)
    code, _, err = project.call("program")
    assert first.wait(timeout=60) == 0
    assert code == 7
    assert "waiting" in err
    assert sum("uv pip install" in line for line in project.calls()) == 1


def test_another_python_takes_over_where_this_one_is_unsuitable(project: Project, tmp_path: Path) -> None:
    project.script.write_text(project.script.read_text().replace("((3, 11), (3, 12))", "((3, 0),)"))
    code, _, err = project.call("program", PATH="")
    assert code == 1
    assert "Python 3.11 or 3.12 is needed" in err

    project.stand_in(tmp_path / "bin" / "python3.12")
    assert project.call("program", PATH=f"{tmp_path / 'bin'}:/bin:/usr/bin")[0] == 0
    assert project.calls()[-1] == f"{project.script} program"


def test_a_python_without_venv_names_the_package(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("bootstrap", project.script)
    assert spec is not None
    assert spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    project.python.unlink()
    monkeypatch.setattr(bootstrap, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"python3\.\d+-venv"):
        bootstrap.install()
