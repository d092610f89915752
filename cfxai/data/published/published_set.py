"""What the readers of published data sets share: from the folder as it was unpacked to a manifest in the cache."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from cfxai.data.manifest import listing
from cfxai.data.whole_folder import whole_folder
from cfxai.errors import DataError
from cfxai.run.progress import Track

log = logging.getLogger("cfxai")


class PublishedSet(ABC):
    """A data set that its user downloaded. Its manifest, and what must be cut out of its files, are made once.

    Args:
        folder: where it was unpacked.
        needs: files and folders that must be in it.
    """

    name: ClassVar[str]
    """Begins the folder's name in the cache."""
    download: ClassVar[str]
    """What to download, as the end of a sentence."""

    def __init__(self, folder: str | Path, needs: Sequence[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.needs = list(needs)

    @abstractmethod
    def cases(self) -> list[Any]:
        """What rows are made of one by one, such as scans."""

    @abstractmethod
    def rows(self, case: Any, output: Path) -> list[dict[str, Any]]:
        """The manifest's rows of one case. What is cut out is written to `output` and named relative to it."""

    def manifest(self, cache: Path) -> Path:
        """The manifest under `cache`, written on the first call and found again while files and settings are the same.

        Raises:
            DataError: the folder or something in it is missing, cannot be read, or gives not a single image.
        """
        for needed in (self.folder, *(self.folder / name for name in self.needs)):
            if not needed.exists():
                raise DataError(f"{needed}: no such file or folder; {self.download}, or set data.source.folder=….")
        folder = cache / f"{self.name}-{self._key()}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            try:
                self._write(folder)
            except OSError:
                if not manifest.exists():  # else another process was faster with the same set
                    raise
        return manifest

    def _write(self, folder: Path) -> None:
        cases, rows = self.cases(), []
        with whole_folder(folder) as output, Track(f"reading {self.name}", len(cases)) as track:
            for case in cases:
                rows += self.rows(case, output)
                track.advance()
            if not rows:
                raise DataError(f"{self.folder}: has no image that can be used; {self.download}.")
            pd.DataFrame(rows).to_csv(output / "manifest.csv", index=False)
        log.info("%s: %d images from %s", self.name, len(rows), self.folder)

    def _key(self) -> str:
        """A digest of settings, code and the files' names, sizes and times."""
        digest = hashlib.sha256(json.dumps(vars(self), sort_keys=True, default=str).encode())
        for source in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            stamp = file.stat()
            digest.update(f"{file.relative_to(self.folder)} {stamp.st_size} {stamp.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


def read_table(path: Path, columns: Sequence[str], setting: str) -> pd.DataFrame:
    """A CSV file as text.

    Args:
        path: the file.
        columns: those that it must have.
        setting: the key that names them, for the message.

    Raises:
        DataError: it cannot be read or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV file ({' '.join(str(error).split())}).") from error
    table.columns = table.columns.str.strip()
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise DataError(
            f"{path}: has no column '{lacking[0]}' (it has {listing(table.columns, 12)}); set {setting} to its name."
        )
    return table.apply(lambda column: column.str.strip())


def whole_number(cell: str, path: Path, column: str) -> int:
    """The number in a cell such as `3` or `3.0`.

    Raises:
        DataError: it is not one.
    """
    try:
        number = float(cell)
    except ValueError:
        number = 0.5
    if number % 1:
        raise DataError(f"{path}: '{cell}' in column '{column}' is not a whole number.")
    return int(number)
