"""Which directory a command works in: a fresh one of its own, or that of an earlier run."""

import re
import shutil
from itertools import count
from pathlib import Path

from cfxai.config.nearest import hint
from cfxai.errors import ConfigError


def reserve(root: Path, name: str) -> Path:
    """Create and return `root/name`, or `root/name-2`, `-3` …: a directory that nobody else has or gets.

    Raises:
        ConfigError: `name` is not a plain directory name, or `root` cannot be written.
    """
    if not re.fullmatch(r"\w[\w.+=, -]*", name):
        raise ConfigError(f"run.name: {name!r} is not a plain directory name; use letters, digits, '-', '_' and '.'")
    for number in count(1):
        directory = root / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            if not directory.exists() or not root.is_dir():
                raise ConfigError(f"run.root: {root} is not a directory") from None
        except OSError as error:
            raise ConfigError(f"run.root: cannot create {directory} ({error.strerror}); set run.root=…") from None
        else:
            return directory
    raise AssertionError("unreachable: count() does not end")


def discard_empty(directory: Path) -> None:
    """Remove the directory of a run that failed before it had learned anything, so that its name is free again."""
    if not any(directory.rglob("*.ckpt")):
        shutil.rmtree(directory, ignore_errors=True)


def is_run(directory: Path) -> bool:
    """Whether `directory` holds a run: training leaves the resolved config there."""
    return (directory / "config.yaml").is_file()


def locate(path: Path) -> tuple[Path, Path | None]:
    """Split what `-cp` names into the run's directory and, if a file was named, the checkpoint.

    Raises:
        ConfigError: `path` is neither a run nor a checkpoint inside one; the message names the nearest runs.
    """
    if path.is_file() and path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return path.parent.parent, path
    if path.name == "checkpoints" and is_run(path.parent):
        return path.parent, None
    if is_run(path):
        return path, None
    jobs = sorted(str(job) for job in runs_under(path))
    if jobs:
        raise ConfigError(f"-cp {path}: is a sweep; name one of its runs: {', '.join(jobs[:12])}")
    reason = "is not a run (no config.yaml in it)" if path.exists() else "no such run"
    known = [str(run) for folder in {path.parent, Path("runs")} for run in runs_under(folder)]
    raise ConfigError(f"-cp {path}: {reason}{hint(str(path), known)}")


def runs_under(folder: Path) -> list[Path]:
    """The runs directly in `folder`, sweep jobs among them when `folder` is a sweep."""
    return sorted(child for child in folder.iterdir() if is_run(child)) if folder.is_dir() else []
