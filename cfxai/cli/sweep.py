"""A sweep: Hydra starts one run per combination of values; each leaves its outcome, and a table gathers them."""

import csv
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from cfxai.config import schema
from cfxai.config.compose import VERSION_BASE
from cfxai.errors import CfxError, Preempted

OUTCOME = "outcome.json"


def sweep(experiment: Path, overrides: Sequence[str], directory: Path) -> int:
    """Run every job of the sweep in `directory/0`, `directory/1` …, print and save the table, return the exit code.

    A failed job does not stop the others; the code is then that of the first failure. Being interrupted or preempted
    stops the sweep.

    Args:
        experiment: the YAML file, already checked together with `overrides`.
        overrides: in Hydra's grammar, several values where they sweep.
        directory: reserved for this sweep.
    """
    settings = (
        f"hydra.sweep.dir={quoted(directory)}",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    )
    code = 0
    try:
        run_hydra(experiment, ["--multirun", *settings, *overrides])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        # A job's own failure is in the table; anything else must not hide behind it.
        if not any(str(error) in outcome.get("error", "") for outcome in outcomes(directory)):
            _remove_if_no_job_ran(directory)
            raise
    finally:
        jobs = outcomes(directory)
        _print_table(jobs, directory)
        _save_table(jobs, directory)
    return code or next((outcome["exit_code"] for outcome in jobs if outcome.get("exit_code")), 0)


def run_hydra(experiment: Path, arguments: Sequence[str]) -> None:
    """Hand over to Hydra's own command line, with `experiment` as the primary config."""
    launched_as = sys.argv
    sys.argv = [launched_as[0], *arguments]
    try:
        decorate = hydra.main(
            version_base=VERSION_BASE, config_path=str(experiment.parent.absolute()), config_name=experiment.stem
        )
        decorate(job)()
    finally:
        sys.argv = launched_as


def job(cfg: DictConfig) -> float | None:
    """Train one combination; whatever happens is also written to `outcome.json` for the table."""
    from cfxai.training import train

    directory = Path(HydraConfig.get().runtime.output_dir)
    outcome: dict[str, Any] = {"overrides": list(HydraConfig.get().overrides.task)}
    try:
        OmegaConf.resolve(cfg)
        schema.check(cfg)
        outcome["objective"] = train(cfg, directory)
    except KeyboardInterrupt:
        outcome["error"] = "interrupted"
        raise
    except CfxError as error:
        outcome |= {"error": str(error), "exit_code": error.exit_code}
        print(f"cfxai: {error}", file=sys.stderr)
        if isinstance(error, Preempted):
            raise SystemExit(error.exit_code) from None
        raise
    except Exception as error:
        outcome |= {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        traceback.print_exc()
        raise
    finally:
        (directory / OUTCOME).write_text(json.dumps(outcome, indent=2), encoding="utf-8")
    return outcome["objective"]


def outcomes(directory: Path) -> list[dict[str, Any]]:
    """What each job left: overrides, and objective or error; of a job that was killed, an error that says so."""
    folders = [folder for folder in directory.glob("*") if folder.name.isdigit()]
    found = []
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        file = folder / OUTCOME
        lost = {"overrides": [], "error": "killed; continue it with -cp", "exit_code": 1}
        found.append(
            {"directory": folder, **(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else lost)}
        )
    return found


def quoted(value: object) -> str:
    """A value as a quoted string in Hydra's override grammar, where bare `=` and `,` are syntax."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _rows(jobs: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the settings in which the jobs differ, the objective, the directory, the error."""
    settings = [dict(line.split("=", 1) for line in job["overrides"] if "=" in line) for job in jobs]
    names = list(dict.fromkeys(name for setting in settings for name in setting))
    swept = [name for name in names if len({setting.get(name) for setting in settings}) > 1]
    rows = [
        [
            job["directory"].name,
            *(setting.get(name, "") for name in swept),
            "" if job.get("objective") is None else f"{job['objective']:.4g}",
            str(job["directory"]),
            job.get("error", ""),
        ]
        for job, setting in zip(jobs, settings, strict=True)
    ]
    return ["job", *swept, "objective", "directory", "error"], rows


def _print_table(jobs: Sequence[dict[str, Any]], directory: Path) -> None:
    if not jobs:
        return
    header, rows = _rows(jobs)
    table = Table(title=str(directory), title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row, style="red" if row[-1] else None)
    Console().print(table)


def _save_table(jobs: Sequence[dict[str, Any]], directory: Path) -> None:
    if not jobs:
        return
    header, rows = _rows(jobs)
    with (directory / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _remove_if_no_job_ran(directory: Path) -> None:
    (directory / "multirun.yaml").unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()
