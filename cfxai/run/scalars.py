"""Scalars of a training: `metrics.csv`, one row per step, and TensorBoard events; both survive kills and resumes."""

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import IO

from torch.utils.tensorboard import SummaryWriter

from cfxai.run.checkpoint import write_atomically


class Scalars:
    """Appends a row per step; on opening, drops the rows from `start` on (they will be made again) and any torn one.

    Args:
        directory: where `metrics.csv` and `tensorboard/` are.
        start: the step from which the training goes on.
    """

    def __init__(self, directory: Path, *, start: int = 0) -> None:
        self.path = directory / "metrics.csv"
        self.columns, rows = _kept(self.path, start)
        if self.path.exists():
            write_atomically(self.path, _text(self.columns, rows).encode())
        self.file: IO[str] = open(self.path, "a", newline="")
        self.events = SummaryWriter(str(directory / "tensorboard"), purge_step=start if start else None)

    def write(self, step: int, values: Mapping[str, float], *, event: bool = False) -> None:
        """Appends the step's row; with `event`, also to TensorBoard, which need not see every step."""
        new = [name for name in values if name not in self.columns]
        if new or not self.columns:
            self.file.close()
            previous, rows = _kept(self.path, step)
            self.columns = [*(previous or ["step"]), *new]
            write_atomically(self.path, _text(self.columns, rows).encode())
            self.file = open(self.path, "a", newline="")
        csv.DictWriter(self.file, self.columns, restval="").writerow({"step": step, **values})
        self.file.flush()
        if event:
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.events.close()


def _kept(path: Path, start: int) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        whole = [row for row in reader if None not in row and None not in row.values()]
    return columns, [row for row in whole if row["step"].isdigit() and int(row["step"]) < start]


def _text(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
