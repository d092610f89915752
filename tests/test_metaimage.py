"""MetaImage files: their voxels and geometry, and what of them is refused."""

import base64
from pathlib import Path

import numpy as np
import pytest

from cfxai.data.readers import read_image
from cfxai.errors import DataError

BY_ITK = (
    "T2JqZWN0VHlwZSA9IEltYWdlCk5EaW1zID0gMwpCaW5hcnlEYXRhID0gVHJ1ZQpCaW5hcnlEYXRhQnl0ZU9yZGVyTVNCID0gRmFsc2UKQ29tcHJl"
    "c3NlZERhdGEgPSBUcnVlCkNvbXByZXNzZWREYXRhU2l6ZSA9IDMzClRyYW5zZm9ybU1hdHJpeCA9IDAgMC44MDAwMDAwMDAwMDAwMDAwNCAtMC41"
    "OTk5OTk5OTk5OTk5OTk5OCAwIDAuNTk5OTk5OTk5OTk5OTk5OTggMC44MDAwMDAwMDAwMDAwMDAwNCAxIDAgMApPZmZzZXQgPSAxMCAtMjAgNS41"
    "CkNlbnRlck9mUm90YXRpb24gPSAwIDAgMApBbmF0b21pY2FsT3JpZW50YXRpb24gPSBBSVIKRWxlbWVudFNwYWNpbmcgPSAzIDAuNSAwLjc1CkRp"
    "bVNpemUgPSAzIDIgMgpFbGVtZW50VHlwZSA9IE1FVF9TSE9SVApFbGVtZW50RGF0YUZpbGUgPSBMT0NBTAp4Xrvyz+L/nP8MDCkMJxh0GCcwfmGM"
    "YNrDpMAMAImQCL8="
)
"""Written by SimpleITK 2.5: 3 x 2 x 2 voxels, -300, -200, … with i running fastest, compressed."""


def test_a_file_by_itk_is_read_with_its_geometry(tmp_path: Path) -> None:
    (tmp_path / "scan.mha").write_bytes(base64.b64decode(BY_ITK))
    scan = read_image(tmp_path / "scan.mha")
    np.testing.assert_array_equal(scan.pixels[0], np.arange(-300, 900, 100).reshape((3, 2, 2), order="F"))
    physical = {(0, 0, 0): (10, -20, 5.5), (1, 0, 0): (10, -17.6, 3.7), (0, 1, 0): (10, -19.7, 5.9)}
    for voxel, (left, back, up) in (physical | {(0, 0, 1): (10.75, -20, 5.5)}).items():
        np.testing.assert_allclose(scan.affine @ [*voxel, 1], [-left, -back, up, 1], atol=1e-9)
    np.testing.assert_allclose(scan.spacing, (3.0, 0.5, 0.75))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"LOCAL", b"scan.raw", r"its voxels lie in another file, scan\.raw"),
        (b"MET_SHORT", b"MET_OTHER", "save it as one 3-D volume of numbers"),
        (b"DimSize = 3 2 2", b"DimSize = 3 2 9", "damaged or not what its name says"),
        (b"ElementDataFile", b"Element", "damaged or not what its name says"),
    ],
)
def test_a_metaimage_that_cannot_be_used_is_named(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    (tmp_path / "scan.mha").write_bytes(base64.b64decode(BY_ITK).replace(old, new))
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "scan.mha")
