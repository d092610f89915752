"""The house's checks as tests, so that one command runs them all."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
LARGEST = 1_000_000
"""Bytes of a file that may be in the repository."""

CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "spelling": ["codespell_lib", "cfxai", "conf", "tools", "README.md", "bootstrap.py"],
}


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS)
def test_check(command: Sequence[str]) -> None:
    passes(sys.executable, "-m", *command)


def test_layers_point_down() -> None:
    passes(sys.executable, "-c", "from importlinter.cli import lint_imports_command as check; check()")


def test_whitespace_and_conflict_markers() -> None:
    tracked_files()
    passes("git", "diff", "--check", EMPTY_TREE)


def test_no_large_files() -> None:
    large = [file for file in tracked_files() if file.is_file() and file.stat().st_size > LARGEST]
    assert not large


def passes(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]
