"""A sweep: Hydra starts one run per combination of values; each leaves its outcome, and tables gather them."""

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cfxai.cli.outcomes import OUTCOME, Job, jobs_of
from cfxai.cli.paper_table import NOTES, comparisons, paper_table, write_paper_table
from cfxai.cli.sweep_table import sweep_table, write_sweep_table
from cfxai.config import schema
from cfxai.config.compose import VERSION_BASE
from cfxai.errors import CfxError, Preempted
from cfxai.run.progress import console


def sweep(experiment: Path, overrides: Sequence[str], directory: Path) -> int:
    """Run every job of the sweep in `directory/0`, `directory/1` …, print and save the tables, return the exit code.

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
        if not any(str(error) in job.error for job in jobs_of(directory)):
            _remove_if_no_job_ran(directory)
            raise
    finally:
        jobs = report(directory)
    return code or next((job.exit_code for job in jobs if job.exit_code), 0)


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
    """Train one combination; whatever happens is also written to `outcome.json` for the tables."""
    from cfxai.training import train

    directory = Path(HydraConfig.get().runtime.output_dir)
    outcome: dict[str, Any] = {"overrides": list(HydraConfig.get().overrides.task)}
    try:
        OmegaConf.resolve(cfg)
        outcome["paper"] = OmegaConf.to_container(cfg.paper)
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


def report(directory: Path) -> list[Job]:
    """Print and save the tables of the jobs in `directory`, and return the jobs."""
    jobs = jobs_of(directory)
    if jobs:
        console.print(sweep_table(jobs, str(directory)))
        write_sweep_table(jobs, directory / "sweep.csv")
    if rows := comparisons(jobs):
        console.print(paper_table(rows), NOTES, sep="\n")
        write_paper_table(rows, directory / "paper.csv")
    return jobs


def quoted(value: object) -> str:
    """A value as a quoted string in Hydra's override grammar, where bare `=` and `,` are syntax."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _remove_if_no_job_ran(directory: Path) -> None:
    (directory / "multirun.yaml").unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()
