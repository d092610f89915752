"""The layouts of folders and files in which images, labels and masks usually come."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfxai.data.dicom import header
from cfxai.data.manifest import listing
from cfxai.data.naming import stem
from cfxai.data.readers import is_dicom, is_image
from cfxai.data.reference import STACK_ARRAYS, Stacks, stack_arrays
from cfxai.data.splits import SYNONYMS
from cfxai.errors import DataError

NORMAL = ("0", "normal", "healthy", "control", "negative", "no_finding")
MASK_FOLDERS = {"imagesTr": "labelsTr", "images": "masks"}
OTHER_MASK_FOLDERS = ("masks", "labels", "labelsTr", "mask", "segmentations")
MASK_NAME = re.compile(r"(^|[._-])(lesion_mask|mask|msk|seg|segmentations?|ml|labels?|lesions?)$", re.IGNORECASE)
IMAGE_NAME = re.compile(r"(^|[._-])(imaging|image|img|ct|mr|t1|t1w|t1ce|t2|t2w|flair|0000)$", re.IGNORECASE)
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
NO_PATIENT = "no patient column: add one, or give --patient REGEX, or train with data.allow_no_patient=true"


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        rows: manifest rows, all with the same columns; paths as found.
        classes: name of each label, for printing.
        notes: sentences for the user.
    """

    rows: list[dict[str, Any]]
    classes: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_images(source: Path, masks: Path | None = None) -> Found:
    """The images of a folder or an `.npz` stack, with what their places and names tell.

    Raises:
        DataError: the layout is none of those known.
    """
    if source.suffix == ".npz":
        return _stack(source)
    if not source.is_dir():
        raise DataError(f"{source}: is neither a folder nor an .npz file.")
    for images, usual in MASK_FOLDERS.items():
        beside = [source / name for name in (usual, *OTHER_MASK_FOLDERS) if (source / name).is_dir()]
        if (source / images).is_dir() and (masks or beside):
            return _with_masks(list(_images(source / images)), list(_images(masks or beside[0])))
    files = list(_images(source))
    if not files:
        raise DataError(f"{source}: has no images that can be read.")
    if masks is not None:
        return _with_masks([file for file in files if masks not in file.parents], list(_images(masks)))
    named_masks = [file for file in files if MASK_NAME.search(stem(file))]
    if named_masks:
        return _with_masks([file for file in files if file not in named_masks], named_masks)
    return _class_folders(source, files)


def _stack(source: Path) -> Found:
    names, stacks = stack_arrays(source), Stacks()
    count = len(stacks.array(source, STACK_ARRAYS["image"]))
    arrays = {name: stacks.array(source, name) for name in names if name not in STACK_ARRAYS.values()}
    columns = {name: array for name, array in arrays.items() if array.shape == (count,)}
    if "label" not in columns and "mask" not in names:
        raise DataError(f"{source}: has neither an array 'label' nor 'mask' (it has {', '.join(names)}).")
    if "patient" not in columns and "group" in columns:
        columns["patient"] = columns.pop("group")
    files = {role: array for role, array in STACK_ARRAYS.items() if array in names}
    rows = [
        {role: f"{source}::{array}::{index}" for role, array in files.items()}
        | {name: array[index] for name, array in columns.items()}
        for index in range(count)
    ]
    return Found(rows, notes=[] if "patient" in columns else [NO_PATIENT])


def _images(folder: Path) -> Iterator[Path]:
    """Image files under `folder`; a folder with the slices of one DICOM series counts as one image."""
    members = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in members if path.is_file() and is_image(path)]
    if _is_series(files):
        yield folder
        return
    yield from files
    for path in members:
        if path.is_dir():
            yield from _images(path)


def _is_series(files: list[Path]) -> bool:
    if len(files) < 2 or not all(is_dicom(file) for file in files):
        return False
    series = [header(file).get("SeriesInstanceUID", "") for file in (files[0], files[-1])]
    return bool(series[0]) and series[0] == series[1]


def _with_masks(images: list[Path], masks: list[Path]) -> Found:
    """Each image with the mask of its name; labels come from the masks."""
    by_name = {(mask.parent, MASK_NAME.sub("", stem(mask))): mask for mask in masks}
    anywhere = {name: mask for (_, name), mask in by_name.items()}
    rows: list[dict[str, Any]] = []
    without: list[str] = []
    for image in images:
        name = IMAGE_NAME.sub("", stem(image))
        only = [mask for mask in masks if mask.parent == image.parent]
        alone = sum(other.parent == image.parent for other in images) == 1 and len(only) == 1
        mask = by_name.get((image.parent, name)) or (
            only[0] if alone else anywhere.get(name) or anywhere.get(stem(image))
        )
        if mask is None:
            without.append(image.name)
            continue
        case = image.parent.name if alone and len(images) > 1 else name or image.parent.name
        rows.append({"image": str(image), "mask": str(mask), "patient": _subject(image, case)})
    if not rows:
        raise DataError(
            f"{images[0].parent if images else masks[0].parent}: no image has a mask of its name; give --masks DIR."
        )
    rows, notes = _without_unknown_patients(rows)
    notes = notes or ["patient: from the file names; change it where one patient has several images"]
    if without:
        notes.append(f"left out, no mask of that name: {listing(without)}")
    return Found(rows, notes=notes)


def _class_folders(source: Path, files: list[Path]) -> Found:
    """`class/image`, with train/val/test folders above or below the class, and perhaps a folder per patient."""
    parts = {file: file.relative_to(source).parts[:-1] for file in files}
    kinds = {file: [part for part in parts[file] if part.lower() not in SYNONYMS] for file in files}
    names = {kind[0] for kind in kinds.values() if kind}
    loose = [file.name for file in files if not kinds[file]]
    if loose or len(names) < 2:
        what = f"{listing(loose)} are in no class folder" if loose else f"there is only one class, {names}"
        raise DataError(f"{source}: no labels can be told: {what}; see --help for the layouts that are known.")
    ordered = sorted(names, key=lambda name: (name.lower() not in NORMAL, name))
    rows: list[dict[str, Any]] = []
    for file in files:
        label, *below = kinds[file]
        row = {"image": str(file), "label": ordered.index(label), "patient": "_".join(below) or _dicom_patient(file)}
        split = [part for part in parts[file] if part.lower() in SYNONYMS]
        rows.append(row | ({"split": SYNONYMS[split[0].lower()]} if split else {}))
    notes = (
        []
        if ordered[0].lower() in NORMAL
        else [f"no class is called normal: '{ordered[0]}' counts as normal (label 0)"]
    )
    if ordered != ["normal", "abnormal"]:
        notes.append(f"train with data.classes='[{','.join(ordered)}]'")
    rows, unknown = _without_unknown_patients(rows)
    return Found(rows, dict(enumerate(ordered)), notes + unknown)


def _subject(image: Path, case: str) -> str:
    """A volume is taken as one patient; pictures may be slices of the same one, so theirs stays unknown."""
    subject = BIDS_SUBJECT.search(str(image))
    if subject:
        return subject[0]
    return case if image.is_dir() or image.name.lower().endswith(VOLUMES) else _dicom_patient(image)


def _without_unknown_patients(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    if all(row["patient"] for row in rows):
        return rows, []
    return [{key: value for key, value in row.items() if key != "patient"} for row in rows], [NO_PATIENT]


def _dicom_patient(file: Path) -> str:
    first = next(iter(sorted(file.iterdir()))) if file.is_dir() else file
    return str(header(first).get("PatientID", "") or "") if is_dicom(first) else ""
