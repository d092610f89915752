"""The rows of one split to contiguous memory-mapped arrays, through the cache."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cfxai.data.cache import Cache, Entry
from cfxai.data.manifest import ROLES, THREADS, sum_columns
from cfxai.data.prepare import Prepared, Row, prepare
from cfxai.data.recipe import Recipe
from cfxai.data.reference import Stacks
from cfxai.errors import DataError

log = logging.getLogger("cfxai")
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Source:
    """Rows that share one file: all entries of an `.npz` stack that a split uses, or a single image."""

    rows: list[Row]
    key: str


@dataclass(frozen=True)
class Assembled:
    """All items of a split in the order of its rows.

    Attributes:
        arrays: `images`, and where the set has them `masks`, `organs`, `healthy` and `regions`; memory-mapped.
        rows: per row of the split {slices, lesion, geometry, dropped}, see `Prepared`.
    """

    arrays: dict[str, np.ndarray]
    rows: list[dict[str, Any]]

    @property
    def dropped(self) -> str:
        """How many slices each filter removed, in words; empty when none."""
        return _dropped(self.rows)


def assemble(name: str, table: pd.DataFrame, recipe: Recipe, arrays: list[str], cache: Cache) -> Assembled:
    """Prepare what the cache does not hold, and join it to one array of each kind.

    Args:
        name: the split, for messages.
        table: its rows, as `read_manifest` gives them, entries of a stack next to each other.
        recipe: what decides pixels.
        arrays: images, and masks, organs, healthy and regions when the data set has them.
        cache: where the result is kept.
    """
    sources = list(_sources(table, recipe, arrays))
    key = _digest([source.key for source in sources])
    entry = cache.load(key)
    if entry is None:
        _prepare_missing(name, sources, recipe, arrays, cache)
        _join(name, sources, key, cache)
        entry = cache.load(key)
    if entry is None:
        raise DataError(
            f"{cache.folder}: what was written to the data cache cannot be read back;"
            " check the disk, or set cache to another folder."
        )
    return Assembled(entry.arrays, entry.meta["rows"])


def _sources(table: pd.DataFrame, recipe: Recipe, arrays: list[str]) -> Iterator[Source]:
    def shared_file(position: int) -> Hashable:
        image = table["image"].iloc[position]
        return image.path if image.array is not None else position

    settings, sums = recipe.describe(), sum_columns(table)
    for _, members in groupby(range(len(table)), shared_file):
        group = table.iloc[list(members)]
        cells = group[[*ROLES, "sha256"]].to_dict("records")
        yield Source([Row(**row) for row in cells], _digest([settings, arrays, group[sums].to_numpy().tolist()]))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _prepare_missing(name: str, sources: list[Source], recipe: Recipe, arrays: list[str], cache: Cache) -> None:
    missing = [
        source for source in {source.key: source for source in sources}.values() if cache.load(source.key) is None
    ]
    started = last = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:  # decompression and numpy run without the interpreter lock
        tasks = pool.map(lambda source: _prepare_source(source, recipe, arrays, cache), missing)
        try:
            for done, _ in enumerate(tasks, 1):
                if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    log.info("preparing %s data: %d of %d files", name, done, len(missing))
        finally:
            pool.shutdown(cancel_futures=True)
    if missing:
        log.info("prepared %s data: %d files in %.0f s", name, len(missing), time.monotonic() - started)


def _prepare_source(source: Source, recipe: Recipe, arrays: list[str], cache: Cache) -> None:
    stacks = Stacks()
    prepared = [prepare(row, recipe, stacks) for row in source.rows]
    shapes = {item.images.shape[1:] for item in prepared}
    if len(shapes) > 1:
        raise DataError(f"{source.rows[0].image.path}: mixes grey and colour images; set data.channels=1 or 3.")
    meta: dict[str, Any] = {
        "rows": [{k: getattr(item, k) for k in ("slices", "lesion", "geometry", "dropped")} for item in prepared]
    }
    meta["first"] = str(source.rows[0].image)
    with cache.write(source.key, meta) as folder:
        for array in arrays:
            np.save(folder / f"{array}.npy", np.concatenate([_array(item, array) for item in prepared]))


def _array(item: Prepared, name: str) -> np.ndarray:
    """In a set that has them, an image without a mask or healthy partner is free of lesions, one without a region map
    has no regions."""
    if name == "masks" and item.masks is None:
        return np.zeros((len(item.images), *item.images.shape[2:]), dtype=bool)
    if name == "healthy" and item.healthy is None:
        return item.images
    if name == "regions" and item.regions is None:
        return np.zeros((len(item.images), *item.images.shape[2:]), dtype=np.int16)
    return getattr(item, name)


def _join(name: str, sources: list[Source], key: str, cache: Cache) -> None:
    rows = [row for source in sources for row in _loaded(source, cache).meta["rows"]]
    total = sum(len(row["slices"]) for row in rows)
    if total == 0:
        raise DataError(f"The {name} split is empty: {_dropped(rows)} were left out; loosen these filters.")
    first = _loaded(sources[0], cache)
    with cache.write(key, {"rows": rows}) as folder:
        joined = {kind: _open(folder / f"{kind}.npy", array, total) for kind, array in first.arrays.items()}
        start = 0
        for source in sources:
            part = _loaded(source, cache)
            stop = start + len(part.arrays["images"])
            for kind, array in part.arrays.items():
                if array.shape[1:] != joined[kind].shape[1:]:
                    raise DataError(
                        f"{part.meta['first']}: has {array.shape[1]} channels, but {first.meta['first']} has"
                        f" {joined[kind].shape[1]}; set data.channels=1 (grey) or 3 (colour) for all."
                    )
                joined[kind][start:stop] = array
            start = stop
        for array in joined.values():
            array.flush()


def _open(path: Path, like: np.ndarray, total: int) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=like.dtype, shape=(total, *like.shape[1:]))


def _dropped(rows: list[dict[str, Any]]) -> str:
    counts = sum((Counter(row["dropped"]) for row in rows), Counter[str]())
    return "; ".join(f"{count} slices {why}" for why, count in counts.items())


def _loaded(source: Source, cache: Cache) -> Entry:
    entry = cache.load(source.key)
    if entry is None:
        raise DataError(f"{cache.folder}: an entry of the data cache vanished while it was in use; start again.")
    return entry
