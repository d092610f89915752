"""Starting runs from the command line, and what goes wrong. Training is a stand-in; few tests start a process."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import EXPERIMENT, ROOT, complaint, exit_code, stand_in_project, tool
from omegaconf import OmegaConf

from cfxai.cli import commands as cli
from cfxai.cli.arguments import PIPE_CLOSED
from cfxai.config.catalogue import groups
from cfxai.errors import CfxError, ConfigError, DataError, NumericsError
from cfxai.run.locate import discard_empty, reserve

project = pytest.fixture(stand_in_project)


@pytest.mark.parametrize(
    "line",
    ["-c small.yaml seed=3 loss.kl=2", "seed=3 -c small.yaml loss.kl=2", "seed=3 loss.kl=2 --config small.yaml"],
)
def test_overrides_may_stand_anywhere(project: Path, line: str) -> None:
    assert exit_code(line) == 0
    saved: Any = OmegaConf.load("runs/small/config.yaml")
    assert (saved.seed, saved.loss.kl, saved.trainer.batch_size) == (3, 2, 16)


def test_nothing_is_ever_overwritten(project: Path) -> None:
    for _ in range(3):
        assert exit_code("-c small.yaml") == 0
    assert exit_code("-c small.yaml run.name=mine run.root=elsewhere") == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["small", "small-2", "small-3"]
    assert Path("elsewhere/mine/config.yaml").is_file()


def test_simultaneous_starts_get_different_directories(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: reserve(tmp_path, "run"), range(16)))
    assert len(set(taken)) == 16


@pytest.mark.parametrize("name", ["../run", "a/b", "", ".", "..", ".hidden"])
def test_a_name_that_is_not_a_plain_directory_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name"):
        reserve(tmp_path, name)


@pytest.mark.parametrize(
    "line",
    [
        "-c small.yaml loss.kll=1",
        "-c small.yaml -m loss.kl=1,x",
        "-c small.yaml run.name=a/b",
        "-c small.yaml --cfg job",
    ],
)
def test_no_directory_is_left_by_what_does_not_run(project: Path, line: str) -> None:
    exit_code(line)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("seed", "code"), [(1, 0), (13, 4), (14, 5), (15, 130)])
def test_exit_codes(project: Path, capsys: pytest.CaptureFixture[str], seed: int, code: int) -> None:
    assert exit_code(f"-c small.yaml seed={seed}") == code
    if seed == 15:
        assert "python tools/train.py -cp runs/small" in capsys.readouterr().err


def test_bugs_keep_their_traceback(project: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code("-c small.yaml seed=16")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("a."), 2), (DataError("b."), 3), (NumericsError("c."), 4), (KeyboardInterrupt(), 130)],
)
def test_the_process_leaves_with_the_code_and_one_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def command(argv: list[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as left:
        cli.run(command)
    assert left.value.code == code
    assert capsys.readouterr().err == (f"cfxai: {error}\n" if isinstance(error, CfxError) else "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "name an experiment: python tools/train.py -c"),
        ("-c smal.yaml", "-c smal.yaml: no such file; did you mean small.yaml?"),
        ("-c small", "-c small: not a .yaml file"),
        ("small.yaml", "small.yaml: write -c small.yaml"),
        ("-c small.yaml loss.kl", "loss.kl: a setting reads key=value"),
        ("-c small.yaml --multirn", "--multirn: no such flag; did you mean --multirun?"),
        ("-c small.yaml -c small.yaml", "one experiment at a time"),
        ("-c small.yaml -cp runs/small", "give only one of them"),
        ("-c small.yaml --resolve", "--resolve and --package go with --cfg job"),
        ("-c small.yaml -m --cfg job", "leave one of them out"),
        ("-c small.yaml --cfg jobs", "invalid choice: 'jobs'"),
        ("-c small.yaml --info nothing", "invalid choice: 'nothing'"),
        ("-c", "expected one argument"),
        ("-c small.yaml data=phantm", "data=phantm: no such option; did you mean phantom?"),
        ("-c small.yaml data=null", "data=null: no such option; choose from"),
    ],
)
def test_mistaken_commands(project: Path, line: str, said: str) -> None:
    assert said in complaint(line)


def test_shipped_experiments_are_found_from_any_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not Path("conf").exists()
    assert exit_code("-c conf/coin_kidney.yaml --cfg job") == 0
    assert "coin" in capsys.readouterr().out


def test_a_run_that_fails_before_it_learned_anything_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "short" / "classifier").mkdir(parents=True)
    discard_empty(tmp_path / "short")
    assert not (tmp_path / "short").exists()
    (tmp_path / "long" / "checkpoints").mkdir(parents=True)
    (tmp_path / "long" / "checkpoints" / "last.ckpt").touch()
    discard_empty(tmp_path / "long")
    assert (tmp_path / "long").exists()


# As processes


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("train", ["--help"]), ("train", ["-c", "conf/x.yaml", "-h"]), ("eval_counterfactual", ["--help"])],
)
def test_help_shows_an_example_and_every_option(name: str, arguments: list[str]) -> None:
    result = tool(name, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert "python tools/train.py -c conf/coin_kidney.yaml" in result.stdout
    shown = groups() if name == "train" else {"attributors": groups()["attribution"]}
    for group, options in shown.items():
        assert f"{group}:" in result.stdout
        assert all(option in result.stdout and text in result.stdout for option, text in options.items())


@pytest.mark.parametrize(
    ("name", "arguments", "heavy"),
    [
        ("train", ["--help"], ["torch", "monai", "hydra", "omegaconf"]),
        ("eval_counterfactual", ["--help"], ["torch", "monai", "hydra", "omegaconf"]),
        ("train", ["-c", "small.yaml", "--cfg", "job"], ["torch", "monai"]),
    ],
)
def test_what_runs_nothing_is_quick(project: Path, name: str, arguments: list[str], heavy: list[str]) -> None:
    script = str(ROOT / "tools" / f"{name}.py")
    code = f"import atexit, runpy, sys; atexit.register(lambda: print('HEAVY', set({heavy}) & set(sys.modules)));"
    code += f"sys.argv = {[script, *arguments]}; runpy.run_path({script!r}, run_name='__main__')"
    result, taken = processor_time([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert "HEAVY set()" in result.stdout
    assert taken < processor_time([sys.executable, "-c", "import torch"])[1] / 2, "on this machine, at this moment"


def processor_time(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """What became of the command, and the seconds that it computed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_reader_who_has_seen_enough_ends_it_quietly() -> None:
    told = [sys.executable, str(ROOT / "tools" / "regions.py"), "--help"]
    with subprocess.Popen(told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == PIPE_CLOSED


def test_cfg_keeps_hydras_meaning(project: Path) -> None:
    short = tool("train", "-c", "small.yaml", "-c", "job", "loss.kl=3", "-p", "loss", cwd=project)
    long = tool("train", "--cfg=job", "loss.kl=3", "--config=small.yaml", "--package=loss", cwd=project)
    assert short.stdout == long.stdout == "# @package loss\nkl: 3\ntv: 0.1\n"
    assert "sweeper:" in tool("train", "-c", "small.yaml", "--cfg", "hydra", cwd=project).stdout
    assert "small" in tool("train", "-c", "small.yaml", "--info", "defaults-tree", cwd=project).stdout


def test_paths_with_spaces_and_signs(project: Path) -> None:
    folder = project / "a b, c=d"
    folder.mkdir()
    (folder / "my exp.yaml").write_text(EXPERIMENT)
    result = tool("train", "-c", str(folder / "my exp.yaml"), "--cfg", "job", "-p", "loss", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert cli.train_command(["-c", str(folder / "my exp.yaml"), "-m", "seed=1,2", f"run.root='{folder}'"]) == 0
    assert (folder / "my exp" / "1" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", "small.yaml", "--cfg", "job", "loss.kll=1"], "loss.kll"),
        (["-c", "small.yaml", "a=[1"], "a=[1"),
        ([], "-c"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(project: Path, arguments: list[str], said: str) -> None:
    result = tool("train", *arguments, cwd=project)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("cfxai: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
