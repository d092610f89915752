"""Short unique names for images, fit for file names."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cfxai.data.reference import Reference

SUFFIX = re.compile(r"\.(nii|nii\.gz|seg\.nrrd|nrrd|mha|dcm|dicom|ima|png|jpe?g|tiff?|npy|npz)$", re.IGNORECASE)


def stem(path: Path) -> str:
    """The file name without the suffix of an image format, `.nii.gz` included."""
    return SUFFIX.sub("", path.name)


def unique_names(references: Iterable[Reference]) -> list[str]:
    """File names without their suffix, preceded by as many folders as it takes to tell them apart.

    `case_3/imaging.nii.gz` becomes `case_3_imaging` where other folders have an `imaging` too. An entry of a stack
    ends in its number; a file that is listed twice gets `-2`, `-3`, ... .
    """
    references = list(references)
    files = list(dict.fromkeys(reference.path for reference in references))
    parts = {path: [*path.resolve().parts[1:-1], stem(path)] for path in files}
    depth = dict.fromkeys(files, 1)
    while clashes := [name for name, count in Counter(_joined(parts[p], depth[p]) for p in files).items() if count > 1]:
        clashing = [path for path in files if _joined(parts[path], depth[path]) in clashes]
        if all(depth[path] >= len(parts[path]) for path in clashing):
            break
        for path in clashing:
            depth[path] += 1
    names: dict[str, None] = {}
    for reference in references:
        entry = "" if reference.index is None else f"-{reference.index:05d}"
        name = _joined(parts[reference.path], depth[reference.path]) + entry
        candidates = itertools.chain([name], (f"{name}-{again}" for again in itertools.count(2)))
        names[next(candidate for candidate in candidates if candidate not in names)] = None
    return list(names)


def _joined(parts: list[str], depth: int) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(parts[-depth:]))
