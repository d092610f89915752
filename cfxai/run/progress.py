"""Progress for people: a bar on a terminal, a plain line now and then in a log file."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
log = logging.getLogger("cfxai")

SECONDS_BETWEEN_LINES = 15.0


class Track:
    """Progress of one task: `with Track("training coin", total=1000) as track: track.advance("kl 0.3")`."""

    def __init__(self, name: str, total: int, *, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self.started, self.begun_at = time.monotonic(), done
        self.printed = self.started
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )

    def __enter__(self) -> "Track":
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.done, note="")
        return self

    def advance(self, note: str = "", by: int = 1) -> None:
        self.done += by
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self.printed >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.printed = now
            rate = (self.done - self.begun_at) / max(now - self.started, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            log.info("%s %d/%d, %.1f/s, %.0f s left  %s", self.name, self.done, self.total, rate, left, note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
