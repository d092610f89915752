"""MetaImage volumes (`.mha`), as ITK writes them: a text header and the voxels in one file."""

import zlib
from pathlib import Path

import numpy as np

from cfxai.data.scan import Scan, volume
from cfxai.errors import DataError

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def read_metaimage(path: Path) -> Scan:
    """A 3-D volume of one channel; its directions are left-posterior-superior, as ITK's are.

    Raises:
        DataError: it is not such a volume, or its voxels lie in another file.
    """
    header, voxels = _split(path)
    size = [int(number) for number in header["DimSize"].split()]
    kind = TYPES.get(header["ElementType"])
    if len(size) != 3 or header.get("ElementNumberOfChannels", "1") != "1" or kind is None:
        raise DataError(f"{path}: save it as one 3-D volume of numbers (it has {size} of {header['ElementType']}).")
    if header.get("CompressedData", "False") == "True":
        voxels = zlib.decompress(voxels)
    order = ">" if header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False")) == "True" else "<"
    values = np.frombuffer(voxels, np.dtype(order + kind), count=int(np.prod(size))).reshape(size, order="F")
    directions = _numbers(header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1")).reshape(3, 3)  # a row for each axis
    affine = np.eye(4)
    affine[:3, :3] = directions.T * _numbers(header.get("ElementSpacing", "1 1 1"))
    affine[:3, 3] = _numbers(header.get("Offset", "0 0 0"))
    affine[:2] *= -1
    return volume(values.astype(np.float32), affine, path)


def _split(path: Path) -> tuple[dict[str, str], bytes]:
    """The header's lines `key = value`, of which `ElementDataFile` is the last, and what follows."""
    content, header, start = path.read_bytes(), dict[str, str](), 0
    while "ElementDataFile" not in header:
        stop = content.index(b"\n", start)
        key, _, value = content[start:stop].decode("ascii").partition("=")
        header[key.strip()] = value.strip()
        start = stop + 1
    if header["ElementDataFile"] != "LOCAL":
        raise DataError(
            f"{path}: its voxels lie in another file, {header['ElementDataFile']}; save both as one .mha file."
        )
    return header, content[start:]


def _numbers(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split()])
