"""What the jobs of a sweep left behind, and which of them differ in their seed only."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

OUTCOME = "outcome.json"
SEED = "seed"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        directory: of the run; its name is the job's number.
        settings: the overrides that made the job, key -> value as it was written.
        objective: what a sweep maximises; None if the job failed.
        error: why it failed; empty if it did not.
        exit_code: 0 if it did not fail.
        paper: the config's section of that name; empty if the job failed before it was composed.
    """

    directory: Path
    settings: Mapping[str, str]
    objective: float | None
    error: str
    exit_code: int
    paper: Mapping[str, Any]

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """The evaluation's metrics.json; empty if the job did not come so far."""
        file = self.directory / "evaluation" / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def main(self) -> Mapping[str, Any]:
        """What `metrics` has of the run's own method; empty if it has none."""
        return next(iter(self.metrics.get("explainers", {}).values()), {})


def jobs_of(directory: Path) -> list[Job]:
    """The jobs of the sweep in `directory`, by number; a job that was killed has an error that says so."""
    folders = [folder for folder in directory.glob("*") if folder.name.isdigit()]
    return [_job(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))]


def _job(folder: Path) -> Job:
    file = folder / OUTCOME
    lost: dict[str, Any] = {"overrides": [], "error": "killed; continue it with -cp", "exit_code": 1}
    left = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else lost
    return Job(
        directory=folder,
        settings=dict(line.split("=", 1) for line in left["overrides"] if "=" in line),
        objective=left.get("objective"),
        error=left.get("error", ""),
        exit_code=left.get("exit_code", 0),
        paper=left.get("paper", {}),
    )


def swept(jobs: Sequence[Job]) -> list[str]:
    """The settings in which the jobs differ; of a job that was killed, none are known."""
    names = dict.fromkeys(name for job in jobs for name in job.settings)
    return [name for name in names if len({job.settings.get(name) for job in jobs if job.settings}) > 1]


def by_settings(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs whose settings are the same but for the seed, together."""
    alike: dict[frozenset[tuple[str, str]], list[Job]] = {}
    for job in jobs:
        alike.setdefault(frozenset(item for item in job.settings.items() if item[0] != SEED), []).append(job)
    return list(alike.values())


def spread(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    """Mean, least and greatest of the values that there are; None if there are none."""
    known = [value for value in values if value is not None]
    return (sum(known) / len(known), min(known), max(known)) if known else None


def in_words(values: Iterable[float | None], style: str = ".3f") -> str:
    """Mean (least–greatest); the mean alone where they are the same; a dash without any."""
    found = spread(values)
    if found is None:
        return "–"
    mean, least, greatest = (f"{value:{style}}" for value in found)
    return mean if least == greatest else f"{mean} ({least}–{greatest})"
