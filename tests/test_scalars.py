"""`metrics.csv` has every step exactly once, whatever happened in between."""

import csv
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfxai.run.scalars import Scalars


def rows(directory: Path) -> list[dict[str, str]]:
    with open(directory / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def write(directory: Path, start: int, end: int) -> None:
    scalars = Scalars(directory, start=start)
    for step in range(start, end):
        values = {"loss": step / 2} | ({"val_iou": step / 10} if step % 4 == 3 else {})
        scalars.write(step, values, event=step % 4 == 3)
    scalars.close()


def test_columns_that_come_later_are_empty_before(tmp_path: Path) -> None:
    write(tmp_path, 0, 8)
    found = rows(tmp_path)
    assert list(found[0]) == ["step", "loss", "val_iou"]
    assert [(row["step"], row["val_iou"]) for row in found[2:5]] == [("2", ""), ("3", "0.3"), ("4", "")]


@given(data=st.data())
def test_resuming_anywhere_gives_the_uninterrupted_file(data: st.DataObject, tmp_path_factory: object) -> None:
    whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))  # type: ignore[attr-defined]
    write(whole, 0, 10)
    end = data.draw(st.integers(1, 10))
    write(broken, 0, end)
    file = broken / "metrics.csv"
    torn = data.draw(st.integers(0, 12))
    header = file.read_bytes().index(b"\n") + 1
    file.write_bytes(file.read_bytes()[: max(header, file.stat().st_size - torn)])
    written = [row for row in rows(broken) if all(v is not None for v in row.values())]
    write(broken, data.draw(st.integers(0, max(0, len(written) - 1))), 10)
    kept = [{name: value for name, value in row.items() if value} for row in rows(broken)]
    assert kept == [{name: value for name, value in row.items() if value} for row in rows(whole)]


def test_events_hold_validations_and_no_step_twice(tmp_path: Path) -> None:
    write(tmp_path, 0, 8)
    write(tmp_path, 4, 12)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_iou")] == [3, 7, 11]
