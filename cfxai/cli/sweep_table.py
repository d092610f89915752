"""A sweep's table: a row for each job, and the mean over the seeds of the same settings."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from cfxai.cli.outcomes import SEED, Job, by_settings, in_words, swept

FIGURES: dict[str, Callable[[Job], float | None]] = {
    "objective": lambda job: job.objective,
    "IoU": lambda job: job.main.get("iou"),
    "flip rate": lambda job: job.main.get("flip_rate"),
}


def sweep_table(jobs: Sequence[Job], title: str) -> Table:
    """The table for the terminal; figures that no job has are left out."""
    names = swept(jobs)
    figures = {name: value for name, value in FIGURES.items() if any(value(job) is not None for job in jobs)}
    errors = ["error"] if any(job.error for job in jobs) else []
    table = Table(title=title, title_justify="left")
    for column in ("job", *names, *figures, *errors):
        table.add_column(column, overflow="fold")
    for job in jobs:
        settings = (job.settings.get(name, "") for name in names)
        values = (in_words([value(job)], ".4g") for value in figures.values())
        table.add_row(
            job.directory.name, *settings, *values, *(job.error for _ in errors), style="red" if job.error else None
        )
    table.add_section()
    for group in by_settings([job for job in jobs if not job.error]):
        if len(group) > 1:
            settings = (f"{len(group)} seeds" if name == SEED else group[0].settings.get(name, "") for name in names)
            values = (in_words(map(value, group)) for value in figures.values())
            table.add_row("mean", *settings, *values)
    return table


def write_sweep_table(jobs: Sequence[Job], file: Path) -> None:
    """The jobs as CSV, with their directories."""
    names, columns = swept(jobs), [name.lower().replace(" ", "_") for name in FIGURES]
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["job", *names, *columns, "directory", "error"])
        for job in jobs:
            figures = (value(job) for value in FIGURES.values())
            values = ("" if figure is None else f"{figure:.4g}" for figure in figures)
            settings = (job.settings.get(name, "") for name in names)
            rows.writerow([job.directory.name, *settings, *values, job.directory, job.error])
