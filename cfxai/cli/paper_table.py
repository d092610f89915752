"""A publication's numbers beside ours: a row for each experiment of a sweep that says what was printed for it."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cfxai.cli.outcomes import SEED, Job, by_settings, in_words, spread, swept
from cfxai.config.catalogue import EXPERIMENT

PRINTED = ("fid", "cv", "iou")
OURS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "fid": lambda found: found.get("fid"),
    "cv": lambda found: found.get("counterfactual_validity"),
    "iou_fixed": lambda found: found.get("fixed", {}).get("iou"),
    "iou_auto": lambda found: found.get("auto", {}).get("iou"),
    "flip_rate": lambda found: found.get("flip_rate"),
}

NOTES = """\
IoU, fixed: one threshold for all images (-cft, 0.25 unless changed; 0.975 for saliency maps) and the pixels of all
abnormal images pooled, as in the paper. IoU, auto: the threshold is the best one on validation; the paper has no such.
FID: ours is of abnormal images' counterfactuals, on the classifier's features unless metrics@metrics.realism=inception,
and not computed of fewer images than features. The paper's is of all images, normal ones left as they are included, on
768 features of Inception: another scale.
CV: ours is of all images with p > 0.8, as in the paper's one-way rows. Most of its two-way rows leave out images with
p between 0.2 and 0.8 and count both directions.
Data, classifier, size and length of training are the paper's only where you set them so."""


@dataclass(frozen=True)
class Comparison:
    """One row.

    Attributes:
        table, row, what: as the config's `paper` section names them.
        printed: the publication's `PRINTED`; None where there is no number.
        ours: `OURS`, a value for each seed that finished.
    """

    table: str
    row: str
    what: str
    printed: Mapping[str, float | None]
    ours: Mapping[str, list[float | None]]


def comparisons(jobs: Sequence[Job]) -> list[Comparison]:
    """A row for each experiment of a publication, and for each saliency map in the same table of it."""
    return [row for group in by_settings(jobs) if group[0].paper.get("row") for row in _rows(group, swept(jobs))]


def _rows(group: Sequence[Job], names: Sequence[str]) -> Iterator[Comparison]:
    paper, finished = group[0].paper, [job.metrics["explainers"] for job in group if job.main]
    others = [name for name in names if name != SEED and not name.startswith(EXPERIMENT)]
    settings = [f"{name}={group[0].settings.get(name, '')}" for name in others]

    def row(name: str, what: str, printed: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Comparison:
        return Comparison(
            table=paper["table"] or "",
            row=name,
            what=", ".join(filter(None, [what, *settings])),
            printed={key: printed.get(key) for key in PRINTED},
            ours={key: [value(each) for each in found] for key, value in OURS.items()},
        )

    yield row(paper["row"], paper["what"] or "", paper, [next(iter(explainers.values())) for explainers in finished])
    for name, iou in paper["attributors"].items():
        found = [explainers[name] for explainers in finished if name in explainers]
        yield row(name, "saliency map", {"iou": iou}, found)


def paper_table(rows: Sequence[Comparison]) -> Table:
    """The table for the terminal; `NOTES` belong under it."""
    table = Table(title="the paper's numbers beside ours", title_justify="left")
    table.add_column("table, row: experiment", overflow="fold")
    for column in ("FID", "CV", "IoU"):
        table.add_column(f"paper\n{column}", justify="right", overflow="fold")
    for column in ("FID", "CV", "IoU, fixed", "IoU, auto", "flip rate"):
        table.add_column(f"ours\n{column}", justify="right", overflow="fold")
    for row in rows:
        where = f"{row.table}, {row.row}" if row.table else row.row
        printed = (in_words([row.printed[key]], "g") for key in PRINTED)
        ours = (in_words(values).replace(" ", "\n") for values in row.ours.values())
        table.add_row(f"{where}: {row.what}" if row.what else where, *printed, *ours)
    return table


def write_paper_table(rows: Sequence[Comparison], file: Path) -> None:
    """The rows as CSV: of our figures the mean, least and greatest over the seeds."""
    ours = [f"{key}{end}" for key in OURS for end in ("", "_min", "_max")]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["table", "row", "experiment", *(f"paper_{key}" for key in PRINTED), *ours])
        for row in rows:
            figures = (figure for values in row.ours.values() for figure in spread(values) or ("", "", ""))
            writer.writerow([row.table, row.row, row.what, *row.printed.values(), *figures])
