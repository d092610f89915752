"""explain_files(run, sources): files and folders of images, each explained, and one table of them all."""

import csv
import logging
import os
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import chain, count
from pathlib import Path
from typing import Any

from cfxai.data.dicom import header
from cfxai.data.naming import unique_names
from cfxai.data.readers import is_dicom, is_image
from cfxai.data.reference import Reference
from cfxai.errors import ConfigError, DataError, NumericsError
from cfxai.explaining.explanation import Explanation, called
from cfxai.explaining.opening import Opened
from cfxai.loaded import LoadedRun
from cfxai.run.checkpoint import write_atomically
from cfxai.run.directory import logging_to, shown
from cfxai.run.progress import Track

log = logging.getLogger("cfxai")


def explain_files(
    run: LoadedRun,
    sources: Sequence[Path],
    out: Path | None = None,
    *,
    attributors: Sequence[str] = (),
    threshold: float | None = None,
    sweep: bool = False,
) -> list[str]:
    """Explains every image and writes `explanations.csv` and the files of each; an image that fails stops no other.

    Args:
        sources: files, and folders, which are searched; a folder with the slices of a DICOM series is one image.
        sweep: whether to show each image at every severity, too; of a volume in slices, the one that changes most.
        out: a folder that is new or empty; None = `explanations`, `explanations-1` … in the run's directory.

    Returns:
        Why images could not be explained, a sentence each.

    Raises:
        ConfigError: `out` holds something, there is no such attributor, or the run has no method, or for a sweep none
            with a scale of severity.
        DataError: there is no image at all, or nothing can be written.
    """
    run.require_method()
    if sweep:
        run.require_graded()
    files, problems = _images(sources)
    if not files:
        raise DataError(" ".join(problems) or "There are no images to explain.")
    maps = {name: run.attributor(name) for name in attributors}
    out = _made(_free(run.run.directory / "explanations") if out is None else _empty(out))
    rows: list[dict[str, Any]] = []
    with logging_to(out / "log.txt"), Track("explaining", len(files)) as track:
        for problem in problems:
            log.error("%s", problem)
        for file, name in zip(files, unique_names(map(Reference, files)), strict=True):
            try:
                explanation = run.explain(file, threshold=threshold, attributors=maps)
                explanation.save(out, name)
                if sweep:
                    run.sweep(_telling(explanation)).save(out, name)
                rows.append(_row(file, explanation))
            except (DataError, NumericsError) as error:
                problems.append(str(error))
                log.error("%s", error)
                rows.append({"file": str(file), "problem": str(error)})
            track.advance()
        _write_table(out / "explanations.csv", rows)
        done = sum("problem" not in row for row in rows)
        log.info("explained %d of %d images  %s", done, len(files), shown(out))
    return problems


def _images(sources: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The images that files and folders hold, and what is wrong with the others."""
    found: list[Path] = []
    problems = []
    for source in sources:
        try:
            inside = list(_inside(source)) if source.is_dir() else [source]
            if not inside:
                raise DataError(f"{source}: has no images that can be read.")
            found += inside
        except OSError as error:
            problems.append(f"{error.filename or source}: cannot be read ({error.strerror}).")
        except DataError as error:
            problems.append(str(error))
    return list(dict.fromkeys(found)), problems


def _inside(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        members = sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    files = [path for path in members if path.is_file() and is_image(path)]
    if _is_series(files):
        yield folder
        return
    yield from files
    for path in members:
        if path.is_dir() and not path.is_symlink():
            yield from _inside(path)


def _is_series(files: Sequence[Path]) -> bool:
    if len(files) < 2 or not all(is_dicom(file) for file in files):
        return False
    try:
        first, last = (header(file).get("SeriesInstanceUID") for file in (files[0], files[-1]))
    except DataError:
        return False
    return first is not None and first == last


def _telling(explanation: Explanation) -> Opened:
    """The image, or of a volume in slices the one that the counterfactual changes most."""
    looked_at = explanation.opened.slices
    change = explanation.difference_stack.sum((1, 2))[looked_at]
    return explanation.opened.only(int(looked_at[change.argmax()]))


def _row(file: Path, explanation: Explanation) -> dict[str, Any]:
    unit, size = "mm3" if explanation.opened.plane else "mm2", explanation.mask_size
    return {
        "file": str(file),
        "called": called(explanation.before),
        "asked_for": explanation.target,
        "flipped": explanation.flipped,
        **{f"p_{name}_before": f"{value:.6f}" for name, value in explanation.before.items()},
        **{f"p_{name}_after": f"{value:.6f}" for name, value in explanation.after.items()},
        "threshold": explanation.threshold,
        "mask_pixels": int(explanation.mask.sum()),
        **({} if size is None else {f"mask_{unit}": round(size, 3)}),
        "notes": " ".join(explanation.notes),
    }


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = dict.fromkeys(key for row in rows for key in row)
    columns = {**{key: None for key in columns if key not in ("notes", "problem")}, "notes": None, "problem": None}
    text = StringIO(newline="")
    writer = csv.DictWriter(text, list(columns))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _free(directory: Path) -> Path:
    names = chain([directory.name], (f"{directory.name}-{number}" for number in count(1)))
    return next(path for path in map(directory.with_name, names) if not path.exists())


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {directory}: cannot be made ({error.strerror}); name another folder.") from error
    return directory


def _empty(directory: Path) -> Path:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"--out {directory}: is not an empty folder; name a new one.")
    return directory
