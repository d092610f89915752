"""The command that writes a phantom into a folder of the user's choice."""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfxai.errors import CfxError, ConfigError

EXAMPLE = """\
example:
  python tools/make_phantom.py -o data/phantom --patients 40
  python tools/train.py -c conf/coin_kidney.yaml data.manifest=data/phantom/manifest.csv

The folder then holds images/ (HU), masks/ (0 background, 1 kidney, 2 tumour, 3 cyst, 4 burned-in marker), healthy/
(the same scans without the tumours), manifest.csv and preview.png.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the phantom and say what to do with it; returns the exit code."""
    try:
        summarise(make_phantom(**parse(argv)))
    except CfxError as error:
        print(f"cfxai: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse(argv: Sequence[str] | None) -> dict[str, Any]:
    """The folder and the options given, each an argument of `cfxai.data.phantom.Phantom`."""
    parser = argparse.ArgumentParser(
        prog="make_phantom.py",
        description="Write an abdominal CT phantom in HU: kidneys with tumours, cysts and vessels, as NIfTI volumes.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("-o", "--output", dest="folder", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--patients", type=int, help="number of volumes (160)")
    parser.add_argument("--seed", type=int, help="of all that is random (0)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of a slice (128)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="size of a pixel (3)")
    parser.add_argument("--slices", type=int, help="axial slices of a volume (24)")
    parser.add_argument("--slice-thickness", type=float, metavar="MM", help="distance of the slices (5)")
    parser.add_argument("--tumour-fraction", type=float, metavar="P", help="share of patients with a tumour (0.65)")
    parser.add_argument("--cyst-fraction", type=float, metavar="P", help="share of patients with benign cysts (0.4)")
    parser.add_argument("--noise", type=float, metavar="HU", help="standard deviation of the noise (12)")
    shortcut = "probability that a slice with a tumour carries a burned-in marker (0)"
    parser.add_argument("--shortcut", type=float, metavar="P", help=shortcut)
    return vars(parser.parse_args(argv))


def make_phantom(folder: Path, **settings: Any) -> Path:
    """Write `Phantom(**settings)` and a picture of it into `folder`, with a progress bar; returns the manifest.

    Raises:
        ConfigError: the folder is not empty, or a setting is out of range.
    """
    from rich.progress import Progress  # imported late, so that --help is instant

    from cfxai.data.phantom import Phantom
    from cfxai.data.phantom_preview import write_preview

    phantom = Phantom(**settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} already exists and is not an empty folder; name another one with -o.")
    with Progress() as bar:
        patients = bar.add_task("patients", total=phantom.patients)
        manifest = phantom.write(folder, lambda: bar.advance(patients))
    write_preview(manifest, folder / "preview.png")
    return manifest


def summarise(manifest: Path) -> None:
    """Print what was written and the next command."""
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    for split, patients in Counter(row["split"] for row in rows).items():
        tumours = sum(row["label"] == "1" for row in rows if row["split"] == split)
        print(f"{split:>6}: {patients:4d} patients, {tumours} with a tumour")
    print(f"look:   {manifest.parent / 'preview.png'}")
    print(f"next:   python tools/train.py -c conf/coin_kidney.yaml data.manifest={manifest}")
