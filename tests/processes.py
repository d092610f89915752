"""Runs of `tools/*.py` as processes of their own, forked from one that has imported everything: 0.1 s each, not 8 s.

Such a process can be killed like any other. As a script, this file is the process that forks.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass
class Process:
    """A command under way."""

    forks: "Forks"
    pid: int
    log: Path
    code: int | None = None

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        if self.code is None:
            self.code = self.forks.ask({"wait": self.pid})
        return self.code

    @property
    def running(self) -> bool:
        if self.code is None:
            self.code = self.forks.ask({"poll": self.pid})
        return self.code is None

    @property
    def output(self) -> str:
        """What it has printed, with the console's line breaks undone."""
        return " ".join(self.log.read_text().split())


class Forks:
    """Starts commands in `cwd`; use it as a context."""

    def __init__(self, cwd: Path) -> None:
        self.cwd, self.started = cwd, 0

    def __enter__(self) -> "Forks":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.parent = subprocess.Popen(
            [sys.executable, __file__], env=environment, cwd=self.cwd, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self.parent.stdin is not None
        self.parent.stdin.close()
        self.parent.wait(60)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(request) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())

    def start(self, tool: str, *arguments: str) -> Process:
        """`python tools/TOOL.py ARGUMENTS`, not waited for."""
        self.started += 1
        log = self.cwd / f"output-{self.started}.txt"
        pid = self.ask({"argv": [str(ROOT / f"tools/{tool}.py"), *arguments], "log": str(log)})
        return Process(self, pid, log)

    def run(self, tool: str, *arguments: str, code: int = 0) -> str:
        """Its output, once it has ended with `code`."""
        process = self.start(tool, *arguments)
        found = process.wait()
        assert found == code, f"exit code {found}, not {code}:\n{process.log.read_text()[-3000:]}"
        return process.output


def serve(requests: Sequence[str]) -> None:
    """Forks, waits and polls as asked, a line of JSON at a time."""
    import cfxai.cli.sweep
    import cfxai.training  # noqa: F401

    for line in requests:
        request = json.loads(line)
        if "argv" in request:
            reply: Any = os.fork()
            if not reply:
                be(request["argv"], request["log"])
        else:
            pid, status = os.waitpid(request.get("wait") or request["poll"], 0 if "wait" in request else os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(reply), flush=True)


def be(argv: list[str], log: str) -> None:
    """Becomes `python ARGV`, printing to `log`; does not return."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    code: Any = 0
    try:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.stdin)  # type: ignore[arg-type]
