"""Brain tumours in MR: task 1 of the Medical Segmentation Decathlon."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cfxai.data.naming import stem
from cfxai.data.published.crop import centre_of, refuse_other_grid, write_crop
from cfxai.data.published.published_set import PublishedSet
from cfxai.data.readers import read_image
from cfxai.data.scan import Scan, volume
from cfxai.errors import DataError


class Brats(PublishedSet):
    """One MR sequence of each case of `Task01_BrainTumour`, cut to a box around the middle of the volume.

    `imagesTr/BRATS_001.nii.gz` holds four sequences, `labelsTr/BRATS_001.nii.gz` 1 oedema, 2 tumour that does not and
    3 tumour that does enhance. The intensity percentiles of the published preprocessing are taken of this box.

    Args:
        folder: with `imagesTr` and `labelsTr`.
        sequence: 0 FLAIR, 1 T1w, 2 T1w with contrast agent, 3 T2w.
        extent: of the box, mm from right to left, front to back and head to foot.
    """

    name = "brats"
    download = (
        "download Task01_BrainTumour of the Medical Segmentation Decathlon (medicaldecathlon.com) and unpack it there"
    )

    def __init__(
        self,
        folder: str | Path,
        sequence: int = 0,
        extent: Sequence[float] = (192.0, 192.0, 128.0),
    ) -> None:
        super().__init__(folder, ["imagesTr", "labelsTr"])
        self.sequence, self.extent = sequence, list(extent)

    def cases(self) -> list[Path]:
        """The images, without what macOS leaves beside them."""
        return sorted(path for path in (self.folder / "imagesTr").glob("*.nii.gz") if not path.name.startswith("."))

    def rows(self, case: Path, output: Path) -> list[dict[str, Any]]:
        """The row of one patient."""
        scan, mask = _read_sequence(case, self.sequence), self.folder / "labelsTr" / case.name
        labels = read_image(mask)
        refuse_other_grid(labels, scan, mask)
        row = {"image": f"{stem(case)}.nii.gz", "mask": f"{stem(case)}_mask.nii.gz", "patient": stem(case)}
        for part, name in ((scan, row["image"]), (labels, row["mask"])):
            write_crop(part, centre_of(scan), self.extent, output / name, fill=0.0)
        return [row]


def _read_sequence(path: Path, number: int) -> Scan:
    """One of the volumes of a 4-D file."""
    try:
        file: Any = nib.load(path)
        if file.ndim != 4 or number >= file.shape[3]:
            raise DataError(
                f"{path}: has shape {file.shape}, which has no sequence {number}; check data.source.sequence."
            )
        return volume(np.asarray(file.dataobj[..., number], dtype=np.float32), file.affine, path)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            f"{path}: cannot be read, it is damaged ({' '.join(str(error).split())}); copy it again."
        ) from error
