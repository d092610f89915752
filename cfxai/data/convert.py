"""DICOM to 16-bit PNG: grey as it is meant to be shown, at full depth, with the names and folders of the files."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image
from rich.console import Console

from cfxai.errors import CfxError, DataError
from cfxai.run.progress import Track

LEVELS = 65535
EXAMPLE = """
example:
  python tools/convert_dicom.py stage_2_train_images -o png
  python tools/make_manifest.py png -o chest.csv

Training reads DICOM by itself (python tools/train.py -c conf/cyclegan_pneumonia.yaml data=rsna_pneumonia); PNG is for
other programs. CT and MR have no range of grey to be shown in: keep them as they are, or convert them to NIfTI.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `tools/convert_dicom.py`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python tools/convert_dicom.py",
        description="Write the DICOM radiographs of a folder as 16-bit PNG, in the same folders under the same names.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="FOLDER", help="folder of DICOM files, searched to the bottom")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the PNG files go")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes at once (all cores)")
    options = parser.parse_args(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if options.workers < 1:
        parser.error("--workers: must be 1 or more")
    try:
        failed = convert_folder(options.source, options.output, options.workers, console)
    except CfxError as error:
        console.print(f"cfxai: {error}", markup=False)
        return error.exit_code
    for sentence in failed:
        console.print(f"cfxai: {sentence}", markup=False)
    return DataError.exit_code if failed else 0


def convert_folder(source: Path, output: Path, workers: int, console: Console) -> list[str]:
    """Converts what is not there yet; returns a sentence for each file that could not be.

    Raises:
        DataError: there is no such folder, or it has no DICOM files, or two of them would become the same PNG.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder.")
    pairs = [(file, output / file.relative_to(source).with_suffix(".png")) for file in dicom_files(source)]
    if not pairs:
        raise DataError(f"{source}: has no DICOM files.")
    counts = Counter(target for _, target in pairs)
    if twice := sorted(str(target) for target, count in counts.items() if count > 1):
        raise DataError(f"{twice[0]}: two files of {source} would be written to it; rename one of them.")
    todo = [(file, target) for file, target in pairs if not target.is_file()]
    if len(todo) < len(pairs):
        console.print(f"{len(pairs) - len(todo)} of {len(pairs)} are in {output} already", markup=False)
    failed: list[str] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, Track("to PNG", len(todo)) as track:
        for job in as_completed([pool.submit(convert, file, target) for file, target in todo]):
            try:
                job.result()
            except DataError as error:
                failed.append(str(error))
            track.advance()
    console.print(f"{output}: {len(pairs) - len(failed)} PNG files", markup=False)
    return sorted(failed)


def convert(file: Path, target: Path) -> None:
    """One DICOM file to one PNG file, which appears only when it is complete.

    Raises:
        DataError: it cannot be read, or is no grey picture with a range in which it is shown.
    """
    from cfxai.data.readers import read_image  # slow to import, and --help does without

    scan = read_image(file)
    if scan.is_volume or len(scan.pixels) != 1 or scan.value_range is None:
        raise DataError(f"{file}: is no grey radiograph; keep it as DICOM, which training reads as it is.")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.incomplete")
    Image.fromarray(levels(scan.pixels[0], scan.value_range)).save(scratch, format="PNG")
    scratch.rename(target)


def levels(pixels: np.ndarray, value_range: tuple[float, float]) -> UInt16[np.ndarray, "h w"]:
    """Grey values [h w] to 0…65535, where these are the ends of the range."""
    low, high = value_range
    share = (pixels.astype(np.float64) - low) / (high - low)
    return (share.clip(0, 1) * LEVELS).round().astype(np.uint16)


def dicom_files(folder: Path) -> Iterator[Path]:
    """All DICOM files under `folder`, in order of their names."""
    from cfxai.data.readers import is_dicom

    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith(".") and is_dicom(file):
            yield file
