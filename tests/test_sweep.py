"""`-m`: many runs, and the tables that gather them. Training is a stand-in."""

import csv
import json
import sys
from pathlib import Path

import command_line
import pytest
from command_line import complaint, exit_code, stand_in_project
from omegaconf import DictConfig

from cfxai.cli.sweep import report

project = pytest.fixture(stand_in_project)

PAPER = {"table": "7", "row": "W", "what": "one term", "fid": 0.5, "cv": None, "iou": 0.25, "attributors": {}}


def evaluation(iou: float) -> str:
    """What the tables read of a metrics.json."""
    coin = {"iou": iou, "flip_rate": 0.9, "fid": 12.5, "counterfactual_validity": 0.75}
    coin |= {"fixed": {"iou": iou / 2}, "auto": {"iou": iou}}
    rise = {"iou": 0.3, "fixed": {"iou": 0.04}, "auto": {"iou": 0.3}}
    return json.dumps({"explainers": {"coin": coin, "rise": rise}})


def train_and_judge(cfg: DictConfig, directory: Path) -> float:
    """The stand-in for training, which leaves an evaluation too."""
    (directory / "evaluation").mkdir()
    (directory / "evaluation" / "metrics.json").write_text(evaluation(cfg.loss.kl / 10))
    return command_line.train(cfg, directory)


def job_of(sweep: Path, number: int, overrides: str, iou: float | None, paper: object = PAPER) -> None:
    """What a job leaves; without an IoU, it failed."""
    folder = sweep / str(number) / "evaluation"
    folder.mkdir(parents=True)
    ended = {"error": "loss.kl is NaN at step 3.", "exit_code": 4} if iou is None else {"objective": iou}
    outcome = {"overrides": overrides.split(), "paper": paper, **ended}
    (folder.parent / "outcome.json").write_text(json.dumps(outcome))
    if iou is not None:
        (folder / "metrics.json").write_text(evaluation(iou))


def rows_of(file: str | Path) -> list[dict[str, str]]:
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def printed_rows(said: str, first: str) -> list[list[str]]:
    """The cells of the printed rows whose first cell is `first`."""
    rows = ([cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│"))
    return [cells for cells in rows if cells[0] == first]


def test_a_sweep_gathers_its_jobs_in_a_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("-c small.yaml -m loss.kl=0.5,1 seed=1,2 loss.tv=0") == 0
    rows = rows_of("runs/small/sweep.csv")
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
    rows = rows_of("runs/small/sweep.csv")
    assert len(rows) == jobs
    assert [bool(row["error"]) for row in rows] == [False, True, False][:jobs]
    assert json.loads(Path("runs/small/1/outcome.json").read_text()).get("exit_code", 130) == code


def test_a_plugin_that_is_not_installed(project: Path) -> None:
    assert ".[sweep]" in complaint("-c small.yaml -m hydra/launcher=nowhere seed=1,2")


def test_a_sweep_that_hydra_refuses_leaves_no_directory(project: Path) -> None:
    assert "BasicSweeper does not support" in complaint("-c small.yaml -m loss.kl=interval(0.1,5)")
    assert not list(Path("runs").iterdir())


def test_the_figures_of_each_job_and_their_mean_over_the_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (kl, seed, iou) in enumerate([(1, 0, 0.1), (1, 4, 0.14), (2, 0, 0.2), (2, 4, None)]):
        job_of(tmp_path, number, f"loss.kl={kl} seed={seed} loss.tv=0", iou, {})
    (tmp_path / "4").mkdir()  # killed
    assert [job.exit_code for job in report(tmp_path)] == [0, 0, 0, 4, 1]
    rows = rows_of(tmp_path / "sweep.csv")
    assert [(row["iou"], row["flip_rate"]) for row in rows] == [
        ("0.1", "0.9"),
        ("0.14", "0.9"),
        ("0.2", "0.9"),
        ("", ""),
        ("", ""),
    ]
    said = capsys.readouterr().out
    assert printed_rows(said, "1") == [["1", "1", "4", "0.14", "0.14", "0.9", ""]]
    assert printed_rows(said, "3") == [["3", "2", "4", "–", "–", "–", "loss.kl is NaN at step 3."]]
    assert printed_rows(said, "mean") == [
        ["mean", "1", "2 seeds", *["0.120 (0.100–0.140)"] * 2, "0.900", ""],
    ]
    assert not (tmp_path / "paper.csv").exists()


def test_jobs_of_one_seed_have_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job_of(tmp_path, 0, "loss.kl=1 seed=3", 0.1)
    job_of(tmp_path, 1, "loss.kl=2 seed=3", 0.2)
    report(tmp_path)
    assert not printed_rows(capsys.readouterr().out, "mean")


def test_a_sweep_over_experiments_sets_the_papers_numbers_beside_ours(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["cfxai.training"], "train", train_and_judge)
    experiments = {
        "weak": "paper: {table: '7', row: W, what: one term, fid: 0.5, iou: 0.25}",
        "strong": "loss: {kl: 5.0}\npaper: {row: S, cv: 0.9, iou: 0.5, attributors: {rise: 0.397}}",
    }
    (project / "experiment/family").mkdir(parents=True)
    for name, text in experiments.items():
        (project / f"experiment/family/{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    Path("paper.yaml").write_text(command_line.EXPERIMENT.replace("_self_]", "_self_, experiment/family: weak]"))

    assert exit_code("-c paper.yaml -m experiment/family=glob(*)") == 0
    assert [job["experiment/family"] for job in rows_of("runs/paper/sweep.csv")] == ["strong", "weak"]
    strong, rise, weak = rows_of("runs/paper/paper.csv")
    assert (strong["row"], strong["paper_fid"], strong["paper_cv"], strong["paper_iou"]) == ("S", "", "0.9", "0.5")
    assert (weak["table"], weak["row"], weak["experiment"], weak["paper_fid"]) == ("7", "W", "one term", "0.5")
    assert [float(strong[key]) for key in ("iou_auto", "iou_fixed", "flip_rate")] == [0.5, 0.25, 0.9]
    assert [float(weak[key]) for key in ("iou_auto", "fid", "cv")] == [0.1, 12.5, 0.75]
    assert (rise["row"], rise["paper_iou"], float(rise["iou_fixed"]), rise["fid"]) == ("rise", "0.397", 0.04, "")
    said = capsys.readouterr().out
    assert printed_rows(said, "7, W: one term") == [
        ["7, W: one term", "0.5", "–", "0.25", "12.500", "0.750", "0.050", "0.100", "0.900"]
    ]
    assert "another scale" in said


def test_an_experiments_seeds_share_a_row_and_other_settings_do_not(tmp_path: Path) -> None:
    jobs = [("weak", 1, 0, 0.1), ("weak", 1, 4, 0.2), ("weak", 2, 0, 0.3), ("weak", 2, 4, None), ("odd", 1, 0, None)]
    for number, (name, width, seed, iou) in enumerate(jobs):
        job_of(tmp_path, number, f"experiment/family={name} generator.width={width} seed={seed}", iou)
    report(tmp_path)
    first, second, failed = rows_of(tmp_path / "paper.csv")
    assert (first["experiment"], second["experiment"]) == ("one term, generator.width=1", "one term, generator.width=2")
    assert [float(first[f"iou_auto{end}"]) for end in ("", "_min", "_max")] == pytest.approx([0.15, 0.1, 0.2])
    assert [float(second[f"iou_fixed{end}"]) for end in ("", "_min", "_max")] == pytest.approx([0.15] * 3)
    assert (failed["paper_iou"], failed["iou_auto"], failed["iou_auto_max"]) == ("0.25", "", "")
