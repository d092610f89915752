"""Where one image lies: a file, a folder of DICOM slices, or one entry of an `.npz` stack."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfxai.errors import DataError

STACK_ARRAYS = {"image": "images", "mask": "mask", "healthy": "healthy"}


@dataclass(frozen=True)
class Reference:
    """One image: `path`, and for `.npz` stacks the `array` and the `index` in it."""

    path: Path
    array: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str, folder: Path, role: str) -> "Reference":
        """Read `scan.nii.gz`, `stack.npz::17` or `stack.npz::images::17`, relative to `folder`.

        Args:
            text: a manifest cell.
            folder: where relative paths start.
            role: image, mask or healthy; decides which array of a stack is meant when the cell names none.
        """
        name, *place = text.split("::")
        path = folder / name
        if not place:
            if path.suffix == ".npz":
                raise DataError(f"{path}: a stack needs the number of the image, as in {name}::0.")
            return cls(path)
        array = place[0] if len(place) == 2 else STACK_ARRAYS[role]
        if len(place) > 2 or not place[-1].isdigit():
            raise DataError(f"{text}: write a stack entry as {name}::17 or {name}::{array}::17.")
        return cls(path, array, int(place[-1]))

    def __str__(self) -> str:
        return str(self.path) if self.array is None else f"{self.path}::{self.array}::{self.index}"


class Stacks:
    """The `.npz` arrays that were asked for, each read once for as long as this object lives."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Path, str], np.ndarray] = {}

    def __getitem__(self, reference: Reference) -> np.ndarray:
        """The entry's values as stored."""
        array = self.array(reference.path, str(reference.array))
        if reference.index is None or reference.index >= len(array):
            raise DataError(f"{reference}: the array has only {len(array)} entries.")
        return array[reference.index]

    def array(self, path: Path, name: str) -> np.ndarray:
        """A whole array of a stack."""
        if (path, name) not in self._arrays:
            self._arrays[path, name] = _read_array(path, name)
        return self._arrays[path, name]


def stack_arrays(path: Path) -> list[str]:
    """Names of the arrays in an `.npz` file, without reading them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file ({error}); make or copy it again.") from error


def sha256(reference: Reference, stacks: Stacks) -> str:
    """SHA-256 of the file; of a stack entry's raw bytes; of a folder's sorted file digests."""
    try:
        if reference.array is not None:
            return hashlib.sha256(np.ascontiguousarray(stacks[reference]).tobytes()).hexdigest()
        if reference.path.is_dir():
            digests = sorted(_file_sha256(file) for file in reference.path.iterdir() if file.is_file())
            return hashlib.sha256("".join(digests).encode()).hexdigest()
        return _file_sha256(reference.path)
    except OSError as error:
        raise DataError(f"{reference}: cannot be read ({error.strerror}).") from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_array(path: Path, name: str) -> np.ndarray:
    names = stack_arrays(path)
    if name not in names:
        raise DataError(
            f"{path}: has no array '{name}' (it has {', '.join(names)}); name one as in {path.name}::{names[0]}::0."
        )
    try:
        with np.load(path, allow_pickle=False) as stack:
            array: Any = stack[name]
            return array
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: array '{name}' cannot be read ({error}); make or copy the file again.") from error
