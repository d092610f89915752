"""What all phantoms share: a folder of drawn patients and their manifest, complete or not there at all."""

import csv
import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from math import floor
from pathlib import Path
from typing import Any, ClassVar

from cfxai.data.whole_folder import whole_folder
from cfxai.errors import ConfigError
from cfxai.run.progress import Track

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}

log = logging.getLogger("cfxai")


class PhantomSet(ABC):
    """Random patients as files. Patient k depends on `seed` and k alone, however many patients there are.

    Args:
        patients: number of patients.
        seed: of all that is random.
        splits: the share of patients of each split, by label.
    """

    name: ClassVar[str]
    """Begins the folder's name in the cache."""
    folders: ClassVar[tuple[str, ...]]
    """Where `write_patient` puts its files."""
    columns: ClassVar[tuple[str, ...]]
    """Of the manifest, in order; those that no row has are left out."""

    def __init__(self, patients: int, seed: int, splits: Mapping[str, float]) -> None:
        if patients < 1:
            raise ConfigError(f"phantom.patients is {patients}; it must be at least 1.")
        if seed < 0:
            raise ConfigError(f"phantom.seed is {seed}; it must not be negative.")
        if min(splits.values(), default=0) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ConfigError(f"phantom.splits is {dict(splits)}; its shares must be positive and sum to 1.")
        self.patients = patients
        self.seed = seed
        self.splits = {name: float(share) for name, share in splits.items()}

    @abstractmethod
    def write_patient(self, patient: int, folder: Path) -> dict[str, str | int | float]:
        """Write the files of one patient; returns the manifest's row without `split`, paths relative to `folder`."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides the files, as plain values."""

    @abstractmethod
    def sources(self) -> list[Path]:
        """The code that decides the files."""

    def manifest(self, cache: Path) -> Path:
        """The manifest of this phantom under `cache`, written on the first call and found again ever after."""
        folder = cache / f"{self.name}-{self._key()}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            log.info("writing %d phantom patients to %s", self.patients, folder)
            try:
                with Track("writing the phantom", self.patients) as track:
                    self.write(folder, track.advance)
            except OSError:
                if not manifest.exists():  # else another process was faster with the same phantom
                    raise
        return manifest

    def write(self, folder: Path, progress: Callable[[], None] = lambda: None) -> Path:
        """Write all patients and manifest.csv into `folder`, which appears only when it is complete.

        `progress` is called after each patient. Returns the manifest.
        """
        with whole_folder(folder) as complete:
            for name in self.folders:
                (complete / name).mkdir()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = [pool.submit(self.write_patient, patient, complete) for patient in range(self.patients)]
                for job in as_completed(jobs):
                    job.result()
                    progress()
            rows = [job.result() for job in jobs]
            splits = assign_splits([bool(row["label"]) for row in rows], self.splits)
            with (complete / "manifest.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, [name for name in self.columns if name in {"split", *rows[0]}])
                writer.writeheader()
                writer.writerows(row | {"split": split} for row, split in zip(rows, splits, strict=True))
        return folder / "manifest.csv"

    def _key(self) -> str:
        """A digest of all settings and of the code that draws, so that a cached phantom is never a stale one."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        for source in [Path(__file__), *self.sources()]:
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]


def falls_on(patient: int, share: float) -> bool:
    """Whether patient k is among a share of them, spread so evenly that any few patients hold both kinds."""
    before, after = (floor(n * share + 1e-9) for n in (patient, patient + 1))
    return after > before


def assign_splits(labels: Sequence[bool], shares: Mapping[str, float]) -> list[str]:
    """A split for each patient, stratified by label: each goes where its label is furthest behind its share.

    More patients at the end leave the earlier ones where they are.
    """
    splits: list[str] = []
    seen: dict[bool, dict[str, int]] = {label: dict.fromkeys(shares, 0) for label in labels}
    for label in labels:
        counts = seen[label]
        behind = {name: share * (sum(counts.values()) + 1) - counts[name] for name, share in shares.items()}
        split = max(behind, key=behind.__getitem__)
        counts[split] += 1
        splits.append(split)
    return splits
