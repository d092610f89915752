"""One label map from a folder with a file per organ, as in TotalSegmentator's data set."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.progress import track

from cfxai.data.manifest import listing, nearest
from cfxai.data.naming import stem
from cfxai.data.readers import read_nifti
from cfxai.data.splits import SYNONYMS
from cfxai.errors import ConfigError, DataError

FOLDER = "segmentations"
IMAGES = ("ct.nii.gz", "ct.nii", "mri.nii.gz", "mri.nii")


def organ_folders(source: Path) -> list[Path]:
    """The folders `case/segmentations` of `source` that hold a NIfTI file per organ beside the case's scan."""
    return sorted(folder for folder in source.glob(f"*/{FOLDER}") if folder.is_dir() and any(_organs(folder)))


def merge_organs(folders: Sequence[Path], organs: Mapping[str, int], output: Path) -> list[dict[str, str]]:
    """Manifest rows of all cases, their organs written as one label map each to `output`.

    A file that a case lacks counts as an organ that is not in view; where organs overlap, the later one wins. A
    `meta.csv` beside the cases, as TotalSegmentator has it, gives the splits.

    Args:
        folders: of `organ_folders`.
        organs: label of each organ, by the name of its file.
        output: folder of the label maps, made if need be.

    Raises:
        ConfigError: an organ that no case has.
        DataError: a case without its scan, or an organ on another grid.
    """
    known = sorted({stem(file) for folder in folders for file in _organs(folder)})
    for name in organs:
        if name not in known:
            raise ConfigError(
                f"--organs {name}: no case has this file{nearest(name, known)}; there are {listing(known)}."
            )
    output.mkdir(parents=True, exist_ok=True)
    splits = _splits(folders[0].parent.parent / "meta.csv", [folder.parent.name for folder in folders])
    console, rows = Console(stderr=True), []
    for folder in track(folders, "label maps", console=console, disable=not console.is_terminal):
        case, mask = folder.parent, output / f"{folder.parent.name}.nii.gz"
        image = next((case / name for name in IMAGES if (case / name).is_file()), None)
        if image is None:
            raise DataError(f"{case}: has {FOLDER} but none of {', '.join(IMAGES)}; add the scan or remove the folder.")
        _merge(image, folder, organs, mask)
        row = {"image": str(image), "mask": str(mask), "patient": case.name}
        rows.append(row | ({"split": splits[case.name]} if splits else {}))
    return rows


def _organs(folder: Path) -> Iterator[Path]:
    yield from (file for file in folder.iterdir() if file.name.endswith((".nii", ".nii.gz")))


def _merge(image: Path, folder: Path, organs: Mapping[str, int], output: Path) -> None:
    grid = nib.Nifti1Image.from_filename(image)
    merged = np.zeros(grid.shape, dtype=np.uint8)
    files = {stem(file): file for file in _organs(folder)}
    for name, label in organs.items():
        if name in files:
            organ = read_nifti(files[name]).pixels[0]
            if organ.shape != merged.shape:
                raise DataError(f"{files[name]}: its grid is {organ.shape}, that of {image} is {merged.shape}.")
            merged[organ > 0.5] = label
    nib.save(nib.Nifti1Image(merged, grid.affine), output)


def _splits(meta: Path, cases: Sequence[str]) -> dict[str, str]:
    """Split of each case by TotalSegmentator's `meta.csv` (image_id;…;split;…); empty unless it names all of them."""
    if not meta.is_file():
        return {}
    with meta.open(newline="", encoding="utf-8-sig") as file:
        named = {row.get("image_id", ""): row.get("split") or "" for row in csv.DictReader(file, delimiter=";")}
    return named if all(named.get(case, "").lower() in SYNONYMS for case in cases) else {}
