"""The command that writes a phantom into a folder of the user's choice."""

import argparse
import csv
import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfxai.errors import CfxError, ConfigError

EXAMPLE = """\
examples:
  python tools/make_phantom.py -o data/phantom --patients 40
  python tools/train.py -c conf/coin_kidney.yaml data.manifest=data/phantom/manifest.csv

  python tools/make_phantom.py --kind chest -o data/chest --patients 40
  python tools/train.py -c conf/coin_kidney.yaml data=chest_phantom data.manifest=data/chest/manifest.csv

  python tools/make_phantom.py --kind spine -o data/spine --patients 40
  python tools/train.py -c conf/dae_spine.yaml data.manifest=data/spine/manifest.csv

The folder then holds manifest.csv, preview.png and
  abdomen: images/ (HU), masks/ (0 background, 1 kidney, 2 tumour, 3 cyst, 4 burned-in marker), healthy/ (the same
           scans without the tumours);
  chest:   images/ (16 bit), masks/ (1 opacity), healthy/ (the same radiographs without the opacities), regions/
           (1 right lung, 2 left lung, 3 heart, 4 mediastinum, 5 diaphragm and abdomen, 6 outside the body);
  spine:   images/ (HU), masks/ (1 what a fracture took away), healthy/ (the same vertebrae without the fracture).
"""
DATA = {"abdomen": "", "chest": "data=chest_phantom ", "spine": "space=volumes data=spine_phantom "}
"""What training must be told beside the manifest."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the phantom and say what to do with it; returns the exit code."""
    try:
        options = parse(argv)
        summarise(make_phantom(**options), options["kind"])
    except CfxError as error:
        print(f"cfxai: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse(argv: Sequence[str] | None) -> dict[str, Any]:
    """The kind, the folder and the options given, each an argument of the phantom of that kind."""
    parser = argparse.ArgumentParser(
        prog="make_phantom.py",
        description="Write a phantom: abdominal CT in HU as NIfTI volumes, kidneys with tumours, cysts and vessels;"
        " chest radiographs as PNG, with and without pneumonia; or CT of lumbar vertebrae as NIfTI volumes, with and"
        " without fractures of graded height loss.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("-o", "--output", dest="folder", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--kind", choices=[*DATA], default="abdomen", help="of phantom (abdomen)")
    parser.add_argument("--patients", type=int, help="number of patients (abdomen 160, chest 600, spine 800)")
    parser.add_argument("--seed", type=int, help="of all that is random (0)")
    size = "side of a slice, radiograph or vertebra's volume (128, spine 32)"
    parser.add_argument("--size", type=int, metavar="PIXELS", help=size)
    noise = "standard deviation of the noise: in HU (abdomen 12, spine 20), relative (chest 0.006)"
    parser.add_argument("--noise", type=float, metavar="SD", help=noise)
    abdomen = parser.add_argument_group("abdomen only")
    abdomen.add_argument("--spacing", type=float, metavar="MM", help="size of a pixel (3)")
    abdomen.add_argument("--slices", type=int, help="axial slices of a volume (24)")
    abdomen.add_argument("--slice-thickness", type=float, metavar="MM", help="distance of the slices (5)")
    abdomen.add_argument("--tumour-fraction", type=float, metavar="P", help="share of patients with a tumour (0.65)")
    abdomen.add_argument("--cyst-fraction", type=float, metavar="P", help="share of patients with benign cysts (0.4)")
    shortcut = "probability that a slice with a tumour carries a burned-in marker (0)"
    abdomen.add_argument("--shortcut", type=float, metavar="P", help=shortcut)
    grades = "severity grades, 0 = normal: size and contrast of tumours grow with theirs (not graded)"
    abdomen.add_argument("--grades", type=int, metavar="K", help=grades)
    kidney = "side of a square around one kidney, the one with the tumour, to cut out of the slices (whole abdomen)"
    abdomen.add_argument("--kidney", type=float, metavar="MM", help=kidney)
    chest = parser.add_argument_group("chest only")
    pneumonia = "share of patients with pneumonia (0.5)"
    chest.add_argument("--pneumonia-fraction", type=float, metavar="P", help=pneumonia)
    spine = parser.add_argument_group("spine only")
    spine.add_argument("--fracture-fraction", type=float, metavar="P", help="share of patients with a fracture (0.6)")
    return vars(parser.parse_args(argv))


def make_phantom(folder: Path, kind: str = "abdomen", **settings: Any) -> Path:
    """Write the phantom of that kind and a picture of it into `folder`, with a progress bar; returns the manifest.

    Raises:
        ConfigError: the folder is not empty, or a setting is out of range or not one of that kind.
    """
    from rich.progress import Progress  # imported late, so that --help is instant

    from cfxai.data import phantom_preview
    from cfxai.data.chest import preview as chest_preview
    from cfxai.data.chest.phantom import ChestPhantom
    from cfxai.data.phantom import Phantom
    from cfxai.data.spine import preview as spine_preview
    from cfxai.data.spine.phantom import SpinePhantom

    draw, write_preview = {
        "abdomen": (Phantom, phantom_preview.write_preview),
        "chest": (ChestPhantom, chest_preview.write_preview),
        "spine": (SpinePhantom, spine_preview.write_preview),
    }[kind]
    foreign = settings.keys() - inspect.signature(draw).parameters.keys()
    if foreign:
        raise ConfigError(f"--{min(foreign).replace('_', '-')} is no option of --kind {kind}; leave it out.")
    phantom = draw(**settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} already exists and is not an empty folder; name another one with -o.")
    with Progress() as bar:
        patients = bar.add_task("patients", total=phantom.patients)
        manifest = phantom.write(folder, lambda: bar.advance(patients))
    write_preview(manifest, folder / "preview.png")
    return manifest


def summarise(manifest: Path, kind: str) -> None:
    """Print what was written and the next command."""
    lesion = {"abdomen": "a tumour", "chest": "pneumonia", "spine": "a fracture"}[kind]
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    for split, patients in Counter(row["split"] for row in rows).items():
        sick = sum(row["label"] == "1" for row in rows if row["split"] == split)
        print(f"{split:>6}: {patients:4d} patients, {sick} with {lesion}")
    print(f"look:   {manifest.parent / 'preview.png'}")
    one_kidney = kind == "abdomen" and "side" in rows[0]
    data = "data=phantom_kidney " if one_kidney else DATA[kind]
    print(f"next:   python tools/train.py -c conf/coin_kidney.yaml {data}data.manifest={manifest}")
