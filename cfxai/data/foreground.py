"""The window of a `Fingerprint`: measured once over the organ in the train split, and kept as a small JSON file."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cfxai.data.geometry import display
from cfxai.data.intensity import Fingerprint, Window
from cfxai.data.manifest import SHA256, THREADS
from cfxai.data.prepare import among, labels_of
from cfxai.data.readers import read_image
from cfxai.data.recipe import Recipe
from cfxai.data.reference import Reference, Stacks
from cfxai.run.checkpoint import write_atomically
from cfxai.run.progress import Track

log = logging.getLogger("cfxai")
MAX_VOXELS = 20_000_000
"""At most so many are looked at, as many of each scan."""


@dataclass(frozen=True)
class Measured:
    """A fingerprint's window, and a sentence on where it comes from."""

    window: Window
    note: str


def measure(fingerprint: Fingerprint, train: pd.DataFrame, recipe: Recipe, folder: Path) -> Measured:
    """The window of `fingerprint`: from its file, from `folder` if it was measured before, or measured now.

    Args:
        fingerprint: which percentiles.
        train: rows of the train split, as `read_manifest` gives them.
        recipe: its `organ_labels` say what counts; null for all mask values but 0.
        folder: where the JSON is kept, by what was measured.

    Raises:
        ConfigError: the fingerprint's file cannot be used.
        DataError: a scan cannot be read, or no mask shows the organ.
    """
    if fingerprint.file is not None:
        path = Path(fingerprint.file).expanduser()
        window = Fingerprint.read(path)
        return Measured(window, f"Intensity: {window.lower:g} becomes -1 and {window.upper:g} becomes 1, from {path}.")
    scans = train[train["mask"].notna()]
    sums = sorted(scans[[SHA256["image"], SHA256["mask"]]].to_numpy().tolist())
    asked = [fingerprint.lower, fingerprint.upper, recipe.organ_labels, sums]
    path = folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        voxels = _organ_voxels(scans, recipe)
        window = fingerprint.window(voxels)
        stored = {
            "lower": window.lower,
            "upper": window.upper,
            "percentiles": [fingerprint.lower, fingerprint.upper],
            "organ_labels": recipe.organ_labels,
            "scans": len(scans),
            "voxels": len(voxels),
        }
        write_atomically(path, json.dumps(stored, indent=1).encode())
    window = Fingerprint.read(path)
    return Measured(
        window,
        f"Intensity: {window.lower:g} becomes -1 and {window.upper:g} becomes 1, percentiles {fingerprint.lower:g} and"
        f" {fingerprint.upper:g} of the organ in {len(scans)} training images; kept in {path}.",
    )


def _organ_voxels(scans: pd.DataFrame, recipe: Recipe) -> Float[np.ndarray, " n"]:
    """Native values of the organ, every k-th of each scan in file order."""
    most = max(MAX_VOXELS // max(len(scans), 1), 1)
    stacks = Stacks()

    def voxels(image: Reference, mask: Reference) -> Float[np.ndarray, " n"]:
        shown = display(read_image(image, stacks), recipe.plane)
        organ = among(labels_of(mask, shown, image, recipe.plane, stacks), recipe.organ_labels)
        values = shown.pixels[:, organ].ravel()
        return values[:: -(-len(values) // most) or 1]

    found = []
    with ThreadPoolExecutor(THREADS) as pool, Track("measuring intensities", len(scans)) as track:
        for values in pool.map(voxels, scans["image"], scans["mask"]):
            found.append(values)
            track.advance()
    return np.concatenate(found) if found else np.zeros(0, np.float32)
