"""A folder of images or an `.npz` stack to a manifest, by one command."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from cfxai.errors import CfxError, ConfigError, DataError

KIDNEYS = "kidney_right=2,kidney_left=3"
"""Their labels are those of TotalSegmentator's own label maps."""

EXAMPLE = """
what SOURCE may be:
  stack.npz                        arrays images, label [, mask, group (patient), split]; other columns are kept
  folder/{normal,pneumonia}/*.png  a folder per class; train/, val/, test/ above or below them are kept as splits
  folder/{imagesTr,labelsTr}/      nnU-Net; also images/ + masks/ with equal file names
  folder/*.nii.gz                  volumes next to their masks (case_mask.nii.gz, case-seg.nii.gz, case_label.nii.gz)
  folder/case_*/*.nii.gz           a folder per case, such as case_00001/imaging.nii.gz and segmentation.nii.gz (KiTS)
  folder/s*/segmentations/         TotalSegmentator: ct.nii.gz, and a file per organ; those of --organs become one mask
  A folder that holds the DICOM slices of one series counts as one image.

example, from images to a trained and judged model:
  python tools/make_manifest.py ~/chest -o chest.csv --patient 'person[0-9]+|IM-[0-9]+'
  python tools/train.py -c conf/coin_kidney.yaml data=folder data.manifest=chest.csv
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `tools/make_manifest.py`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python tools/make_manifest.py",
        description="Write the manifest (CSV) of a folder or an .npz stack: labels, masks, patients, splits, sha256.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder or .npz file")
    parser.add_argument("-o", "--output", type=Path, default=Path("manifest.csv"), metavar="CSV", help="manifest.csv")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="folder of masks with the names of the images")
    parser.add_argument("--patient", metavar="REGEX", help="what names the patient in the path of an image")
    parser.add_argument(
        "--organs",
        default=KIDNEYS,
        metavar="NAME=LABEL,…",
        help=f"organs of a folder with a file per organ ({KIDNEYS})",
    )
    parser.add_argument("--no-hash", action="store_true", help="no sha256 columns; a changed file then goes unnoticed")
    options = parser.parse_args(argv)
    try:
        make_manifest(
            options.source, options.output, options.masks, options.patient, options.organs, hashes=not options.no_hash
        )
    except CfxError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"cfxai: {error}", markup=False)
        return error.exit_code
    return 0


def make_manifest(
    source: Path,
    output: Path,
    masks: Path | None = None,
    patient: str | None = None,
    organs: str = KIDNEYS,
    *,
    hashes: bool = True,
) -> None:
    """Write the manifest of `source` to `output`, with paths relative to it, and print what is in it.

    Where organs come as a file each, those named in `organs` are written as one label map per case beside the manifest.

    Raises:
        DataError: `source` is missing or of no known layout, or has images that should have a mask and do not.
        ConfigError: `patient` is no regular expression, or matches nothing in a path; `organs` cannot be read or found.
    """
    from cfxai.data.layouts import Found, find_images  # slow to import, and --help does without
    from cfxai.data.organ_files import merge_organs, organ_folders

    if not source.exists():
        raise DataError(f"{source}: no such folder or file.")
    if masks is not None and not masks.is_dir():
        raise DataError(f"{masks}: no such folder of masks.")
    folders = [] if masks or not source.is_dir() else organ_folders(source)
    if folders:
        found = Found(merge_organs(folders, _labels(organs), output.with_name(f"{output.stem}-organs")))
    else:
        found = find_images(source, masks)
    rows, notes = found.rows, found.notes
    if patient is not None:
        rows = [row | {"patient": _patient(patient, row["image"])} for row in rows]
        notes = [note for note in notes if "patient" not in note]
    if hashes:
        rows = _hashed(rows)
    _write(rows, output)
    _summarise(rows, found.classes, notes, output)


def _labels(organs: str) -> dict[str, int]:
    """The label of each organ in `kidney_right=2,kidney_left=3`."""
    pairs = [pair.partition("=") for pair in organs.split(",")]
    if not all(name.strip() and label.strip().isdigit() and 0 < int(label) < 256 for name, _, label in pairs):
        raise ConfigError(f"--organs {organs}: give the names of files and labels from 1 to 255, as in {KIDNEYS}.")
    return {name.strip(): int(label) for name, _, label in pairs}


def _patient(pattern: str, image: str) -> str:
    try:
        match = re.search(pattern, image)
    except re.error as error:
        raise ConfigError(f"--patient {pattern}: not a regular expression ({error}).") from error
    if match is None:
        raise ConfigError(f"--patient {pattern}: matches nothing in {image}.")
    return match[1] if match.groups() else match[0]


def _hashed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from cfxai.data.manifest import ROLES, SHA256
    from cfxai.data.reference import Reference, Stacks, sha256

    console, stacks = Console(stderr=True), Stacks()
    hashed = []
    for row in track(rows, "sha256", console=console, disable=not console.is_terminal):
        files = {role: Reference.parse(row[role], Path(), role) for role in ROLES if row.get(role)}
        hashed.append(row | {SHA256[role]: sha256(file, stacks) for role, file in files.items()})
    return hashed


def _write(rows: list[dict[str, Any]], output: Path) -> None:
    import pandas as pd

    folder = output.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    for role in [role for role in ("image", "mask", "healthy") if role in table]:
        table[role] = [os.path.relpath(Path(cell).resolve(), folder) for cell in table[role]]
    table.to_csv(output, index=False)


def _summarise(rows: list[dict[str, Any]], classes: dict[int, str], notes: list[str], output: Path) -> None:
    counted = {column: Counter(row.get(column) for row in rows) for column in ("patient", "label", "split")}
    known = {
        column: {value: n for value, n in counts.items() if value is not None} for column, counts in counted.items()
    }
    print(f"{output}: {len(rows)} images of {len(known['patient']) or 'unknown'} patients")
    labels = [
        f"{value}{f' ({classes[value]})' if value in classes else ''}: {n}"
        for value, n in sorted(known["label"].items())
    ]
    print(f"  labels   {', '.join(labels) or 'from the masks'}")
    splits = [f"{name}: {n}" for name, n in known["split"].items()]
    print(f"  splits   {', '.join(splits) or 'made by patient when the data is used'}")
    for note in notes:
        print(f"  note     {note}")
