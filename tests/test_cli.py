"""The two commands as users type them. Training and evaluation are stand-ins; few tests start a process."""

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from cfxai.cli import commands as cli
from cfxai.config.catalogue import groups
from cfxai.errors import CfxError, ConfigError, DataError, NumericsError, Preempted
from cfxai.run.locate import discard_empty, locate, reserve

ROOT = Path(__file__).parents[1]

EXPERIMENT = """\
defaults: [base, _self_]
method: {_target_: cfxai.methods.coin.Coin}
data: {_target_: cfxai.data.dataset.Data, size: 64}
classifier: {_target_: cfxai.nn.Net}
loss: {kl: 1.0, tv: 0.1}
"""

FAILURES: dict[int, Callable[[], BaseException]] = {
    13: lambda: NumericsError("loss.kl is NaN at step 3."),
    14: lambda: Preempted("saved at step 3."),
    15: KeyboardInterrupt,
    16: lambda: ZeroDivisionError("a bug"),
}


def train(cfg: DictConfig, directory: Path) -> float:
    """A run whose seed decides how it ends."""
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    if cfg.seed in FAILURES:
        raise FAILURES[cfg.seed]()
    return float(cfg.loss.kl + cfg.seed)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `small.yaml` to stand in, and stand-ins for the drivers."""
    training: Any = ModuleType("cfxai.training")
    training.train = train
    monkeypatch.setitem(sys.modules, "cfxai.training", training)
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(EXPERIMENT)
    return tmp_path


def exit_code(line: str, command: Callable[[list[str]], int] = cli.train_command) -> int:
    try:
        return command(line.split())
    except CfxError as error:
        return error.exit_code


def complaint(line: str, command: Callable[[list[str]], int] = cli.train_command) -> str:
    with pytest.raises(ConfigError) as caught:
        command(line.split())
    return str(caught.value)


def tool(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


# --- new runs


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
        cli._run(command)
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
    ],
)
def test_mistaken_commands(project: Path, line: str, said: str) -> None:
    assert said in complaint(line)


# --- sweeps


def test_a_sweep_gathers_its_jobs_in_a_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("-c small.yaml -m loss.kl=0.5,1 seed=1,2 loss.tv=0") == 0
    with Path("runs/small/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["loss.kl"], row["seed"], float(row["objective"])) for row in rows] == [
        ("0.5", "1", 1.5),
        ("0.5", "2", 2.5),
        ("1", "1", 2.0),
        ("1", "2", 3.0),
    ]
    assert "loss.tv" not in rows[0]  # the same in every job
    assert [Path(row["directory"]) for row in rows] == [Path(f"runs/small/{number}") for number in range(4)]
    assert all((Path(row["directory"]) / "config.yaml").is_file() for row in rows)
    assert "objective" in capsys.readouterr().out


@pytest.mark.parametrize(("seed", "code", "jobs"), [(13, 4, 3), (16, 1, 3), (14, 5, 2), (15, 130, 2)])
def test_a_failing_job_is_named_and_the_others_go_on(project: Path, seed: int, code: int, jobs: int) -> None:
    """Only preemption and interruption end the sweep."""
    assert exit_code(f"-c small.yaml -m seed=1,{seed},2") == code
    with Path("runs/small/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == jobs
    assert [bool(row["error"]) for row in rows] == [False, True, False][:jobs]
    assert json.loads(Path("runs/small/1/outcome.json").read_text()).get("exit_code", 130) == code


def test_a_plugin_that_is_not_installed(project: Path) -> None:
    assert ".[sweep]" in complaint("-c small.yaml -m hydra/launcher=nowhere seed=1,2")


def test_a_sweep_that_hydra_refuses_leaves_no_directory(project: Path) -> None:
    assert "BasicSweeper does not support" in complaint("-c small.yaml -m loss.kl=interval(0.1,5)")
    assert not list(Path("runs").iterdir())


# --- continuing


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


# --- evaluation


@pytest.fixture
def evaluated(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """Calls of a stand-in for `evaluate`, with a run to evaluate at hand."""
    calls: list[tuple[Path, dict[str, Any]]] = []
    evaluation: Any = ModuleType("cfxai.evaluation")
    evaluation.evaluate = lambda path, **options: calls.append((path, options))
    monkeypatch.setitem(sys.modules, "cfxai.evaluation", evaluation)
    exit_code("-c small.yaml")
    return calls


def test_what_is_not_said_is_left_to_the_run(evaluated: list[tuple[Path, dict[str, Any]]]) -> None:
    assert exit_code("-cp runs/small", cli.evaluate_command) == 0
    ((path, options),) = evaluated
    assert path == Path("runs/small")
    assert set(options.values()) == {None}


def test_short_and_long_flags(evaluated: list[tuple[Path, dict[str, Any]]]) -> None:
    exit_code("-cft 0.25 -t 0.9 -pcf -st 0.9 -sf -at rise layer_cam -cp runs/small", cli.evaluate_command)
    long = "--run runs/small --cf-threshold 0.25 --tau 0.9 --postprocess --saliency-threshold 0.9 --skip-fid"
    exit_code(f"{long} --attributors rise layer_cam", cli.evaluate_command)
    exit_code("-cp runs/small -cft auto -at all", cli.evaluate_command)
    (_, short), (_, spelt_out), (_, everything) = evaluated
    assert short == spelt_out
    assert short == {
        "cf_threshold": 0.25,
        "tau": 0.9,
        "postprocess": True,
        "saliency_threshold": 0.9,
        "skip_fid": True,
        "attributors": ["rise", "layer_cam"],
    }
    assert (everything["cf_threshold"], everything["attributors"]) == ("auto", list(groups()["attribution"]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "name a run: python tools/eval_counterfactual.py -cp"),
        ("-cp runs/smal", "no such run; did you mean runs/small?"),
        ("-cp runs/small -cft 1.5", "-cft/--cf-threshold: must be between 0 and 1, got 1.5"),
        ("-cp runs/small -cft aut", "-cft/--cf-threshold: expected a number, got 'aut'"),
        ("-cp runs/small -at rize", "-at rize: no such attributor; did you mean rise?"),
        ("-cp runs/small --taw 1", "--taw: no such flag; did you mean --tau?"),
    ],
)
def test_mistaken_evaluations(evaluated: list[tuple[Path, dict[str, Any]]], line: str, said: str) -> None:
    assert said in complaint(line, cli.evaluate_command)
    assert not evaluated


# --- as processes


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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "HEAVY set()" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


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


def test_a_run_that_fails_before_it_learned_anything_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "short" / "classifier").mkdir(parents=True)
    discard_empty(tmp_path / "short")
    assert not (tmp_path / "short").exists()
    (tmp_path / "long" / "checkpoints").mkdir(parents=True)
    (tmp_path / "long" / "checkpoints" / "last.ckpt").touch()
    discard_empty(tmp_path / "long")
    assert (tmp_path / "long").exists()
