"""Python with this project installed: `python3 bootstrap.py tools/train.py …`, `python3 bootstrap.py -m pytest`.

The first call, and one after `pyproject.toml` has changed, installs the project into `.venv` beside this file. Every
call then becomes that environment's Python with the arguments given. It needs Python 3.11 or 3.12 and nothing else.
"""

from __future__ import annotations  # an older Python must get far enough to say that it is too old

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from time import sleep
from typing import IO, NoReturn

VERSIONS = ((3, 11), (3, 12))
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main(arguments: list[str]) -> None:
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + os.fsencode(ROOT)).hexdigest()
    if not ready(wanted):
        if sys.version_info[:2] not in VERSIONS:
            become(suitable_python(), [__file__, *arguments])
        VENV.mkdir(exist_ok=True)
        with open(VENV / "lock", "a") as file:
            wait_for(file)
            if not ready(wanted):
                install()
                STAMP.write_text(wanted)  # last, so that an interrupted installation is done again
    if arguments:
        become(PYTHON, arguments)


def say(sentence: str) -> None:
    print(f"bootstrap: {sentence}", file=sys.stderr)


def ready(wanted: str) -> bool:
    return STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.exists()


def install() -> None:
    """The newest releases that `pyproject.toml` allows, by uv, or by pip where uv cannot be had or cannot install."""
    say("installing into .venv; the first time this takes some minutes and up to 6 GB of disk")
    if not works(PYTHON, "import pip"):
        if not (find_spec("venv") and find_spec("ensurepip")):
            sys.exit("bootstrap: this Python lacks venv; on Debian, install python{}.{}-venv".format(*sys.version_info))
        succeed(sys.executable, "-m", "venv", VENV)
    pip, uv, project = (PYTHON, "-m", "pip"), (PYTHON, "-m", "uv", "pip"), ("install", "--editable", ".[dev]")
    if run(*pip, "install", "uv")[0] or run(*uv, *project, "--python", PYTHON)[0]:
        say("uv cannot install it here; trying pip, which takes longer")
        succeed(*pip, *project)


def works(python: str | Path, statement: str) -> bool:
    """Whether that Python is there, is of a suitable version, and can run the statement."""
    return run(python, "-c", f"{statement}; import sys; sys.exit(sys.version_info[:2] not in {VERSIONS})")[0] == 0


def succeed(*command: str | Path) -> None:
    code, output = run(*command)
    if code:
        print(*output.splitlines()[-30:], sep="\n", file=sys.stderr)
        sys.exit(f"bootstrap: not installed; the lines above are from {' '.join(map(str, command))}")


def run(*command: str | Path) -> tuple[int, str]:
    """Exit code and output."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
        return done.returncode, done.stdout + done.stderr
    except OSError as error:
        return 1, str(error)


def wait_for(file: IO[str]) -> None:
    """Locks `file` once no other bootstrap.py has; the system unlocks it when this process ends, however it ends."""
    while True:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            say("another bootstrap.py is installing here; waiting for it")
            sleep(5)


def suitable_python() -> str:
    for found in filter(None, map(which, ("python3.12", "python3.11"))):
        if works(found, "pass"):  # it may be a version manager's stand-in for a Python that is not there
            return found
    sys.exit("bootstrap: Python 3.11 or 3.12 is needed and this is {}.{}; install one".format(*sys.version_info))


def become(python: str | Path, arguments: list[str]) -> NoReturn:
    if os.name == "nt":  # whose exec returns to the shell before the program has ended
        sys.exit(subprocess.call([python, *arguments]))
    os.execv(python, [str(python), *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
