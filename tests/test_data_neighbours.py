"""2.5-D images: each slice between its neighbours, in the plane's order."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cfxai.data.dataset import Data
from cfxai.data.intensity import FullRange, Window
from cfxai.errors import ConfigError, DataError


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Volumes [9, 8, 7] whose voxels all differ, with a healthy partner; lesions in the fourth slice."""
    for case in range(4):
        values = np.random.default_rng(case).permutation(9 * 8 * 7).reshape(9, 8, 7).astype(np.float32)
        mask = np.zeros(values.shape, dtype=np.uint8)
        mask[2:5, 2:5, 3] = 1
        for role, voxels in {"image": values, "healthy": values / 2, "mask": mask}.items():
            nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"{case}-{role}.nii.gz")
    rows = [
        {role: f"{case}-{role}.nii.gz" for role in ("image", "mask", "healthy")}
        | {"patient": case, "split": ("train", "train", "val", "test")[case]}
        for case in range(4)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path / "m.csv"


def data(manifest: Path, **changed: Any) -> Data:
    defaults = {"intensity": Window(0.0, 504.0), "size": 8, "cache": manifest.parent / "cache"}
    return Data(manifest, **defaults | changed)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("neighbours", [1, 2])
def test_channels_are_the_slices_around_each(volumes: Path, plane: str, neighbours: int) -> None:
    flat = data(volumes, plane=plane).split("train")
    made = data(volumes, plane=plane, neighbours=neighbours)
    thick = made.split("train")
    assert made.channels == 2 * neighbours + 1
    assert (flat.channel, thick.channel) == (None, neighbours)
    assert (thick.ids, thick.labels.tolist()) == (flat.ids, flat.labels.tolist())
    np.testing.assert_array_equal(thick.masks, flat.masks)
    count = len(flat) // 2  # slices of each of two volumes
    for stacked, single in ((thick.images, flat.images), (thick.healthy, flat.healthy)):
        assert stacked is not None
        assert single is not None
        for item in range(len(flat)):
            first = item - item % count
            for channel, step in enumerate(range(-neighbours, neighbours + 1)):
                source = first + min(max(item % count + step, 0), count - 1)
                np.testing.assert_array_equal(stacked[item, channel], single[source, 0])


def test_neighbours_are_those_of_the_volume_not_of_the_selection(volumes: Path) -> None:
    whole = data(volumes).split("test").images[:, 0]
    chosen = data(volumes, neighbours=1, slice_step=3, slice_range=[0.2, 1.0]).split("test")
    assert chosen.origin.slices == [1, 4]
    for image, number in zip(chosen.images, chosen.origin.slices, strict=True):
        np.testing.assert_array_equal(image, whole[number - 1 : number + 2])


def test_only_slices_of_grey_volumes_have_neighbours(tmp_path: Path) -> None:
    for wrong in ({"neighbours": -1}, {"neighbours": 1, "plane": "volume"}, {"neighbours": 1, "channels": 3}):
        with pytest.raises(ConfigError, match=r"data\.neighbours: .*data\.channels=1"):
            data(tmp_path / "m.csv", **wrong)
    for k in range(8):
        Image.fromarray(np.full((8, 8), k, dtype=np.uint8)).save(tmp_path / f"{k}.png")
    rows = [{"image": f"{k}.png", "label": k % 2, "patient": k} for k in range(8)]
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(DataError, match=r"png: a picture has no neighbouring slices; set data\.neighbours=0"):
        data(tmp_path / "m.csv", intensity=FullRange(), neighbours=1).split("train")
