"""Prepared arrays on disk: written whole or not at all, checked when opened, never changed."""

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfxai.errors import DataError


@dataclass(frozen=True)
class Entry:
    """Read-only memory-mapped arrays by name, and a description."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Cache:
    """A folder of entries `<key>/{name}.npy, meta.json`; safe with several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{folder}: the data cache cannot be made ({error.strerror}); set cache to another folder."
            ) from error

    def load(self, key: str) -> Entry | None:
        """The entry; None when there is none or it is damaged (it is then to be made again)."""
        folder = self.folder / key
        try:
            described = json.loads((folder / "meta.json").read_text())
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in described["checksums"]}
            intact = all(_checksum(array) == described["checksums"][name] for name, array in arrays.items())
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return Entry(arrays, described["meta"]) if intact else None

    @contextmanager
    def write(self, key: str, meta: dict[str, Any]) -> Iterator[Path]:
        """A scratch folder for the entry's `.npy` files; it becomes the entry if the block ends without error."""
        scratch = self.folder / f"{key}.{uuid.uuid4().hex}.tmp"
        scratch.mkdir()
        try:
            yield scratch
            checksums = {file.stem: _checksum(np.load(file, mmap_mode="r")) for file in sorted(scratch.glob("*.npy"))}
            (scratch / "meta.json").write_text(json.dumps({"checksums": checksums, "meta": meta}))
            self._install(scratch, self.folder / key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _install(self, scratch: Path, target: Path) -> None:
        if target.exists():
            if self.load(target.name) is not None:  # another process was faster
                return
            damaged = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
            os.replace(target, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            os.replace(scratch, target)
        except OSError:
            if not target.exists():
                raise


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of the values, together with their type and shape."""
    return zlib.crc32(
        np.ascontiguousarray(array).data.cast("B") if array.size else b"",
        zlib.crc32(f"{array.dtype}{array.shape}".encode()),
    )
