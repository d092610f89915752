"""Slices are cut, sampled and put back exactly: orientation, block means, areas, masks in the original geometry."""

import itertools
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfxai.data.dataset import Data
from cfxai.data.geometry import PLANES, Axis, as_displayed, display, from_display, resample, restore, to_display
from cfxai.data.intensity import Window
from cfxai.data.scan import Scan

CODES = ["".join(pick) for order in itertools.permutations(["LR", "PA", "IS"]) for pick in itertools.product(*order)]


def oblique(code: str, angles: list[float], spacing: list[float]) -> np.ndarray:
    """The affine of a volume with voxel axes `code`, turned by small angles."""
    x, y, z = angles
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    towards = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.array([towards[axis] for axis in code]).T * spacing
    affine[:3, 3] = [11.0, -7.0, 130.0]
    return affine


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAL"])
def test_slices_are_shown_the_radiological_way(code: str) -> None:
    """Voxel values are coordinates in mm, so that the direction of every displayed axis can be read from them."""
    shape = (4, 5, 6)
    affine = oblique(code, [0.0] * 3, [2.0, 3.0, 4.0])
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    right, anterior, superior = np.moveaxis(voxels @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    axial, coronal = (partial(to_display, affine=affine, plane=plane) for plane in ("axial", "coronal"))
    assert (np.diff(axial(superior), axis=0) > 0).all()  # counted from the feet
    assert (np.diff(axial(anterior), axis=1) < 0).all()  # anterior at the top
    assert (np.diff(axial(right), axis=2) < 0).all()  # the patient's right on the viewer's left
    assert (np.diff(coronal(superior), axis=1) < 0).all()  # head at the top
    assert (np.diff(coronal(right), axis=2) < 0).all()
    assert (np.diff(to_display(superior, affine, "sagittal"), axis=1) < 0).all()
    assert (np.diff(to_display(anterior, affine, "sagittal"), axis=2) < 0).all()


@pytest.mark.parametrize("plane", PLANES)
def test_voxels_that_lie_as_displayed_stay_as_they_are(plane: str) -> None:
    voxels = np.arange(120).reshape(4, 5, 6)
    np.testing.assert_array_equal(to_display(voxels, as_displayed(plane), plane), voxels)


@settings(max_examples=40)
@given(
    st.sampled_from(CODES),
    st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
    st.sampled_from(sorted(PLANES)),
)
def test_display_is_undone_exactly(code: str, angles: list[float], plane: str) -> None:
    affine = oblique(code, angles, [0.7, 1.1, 3.0])
    voxels = np.arange(120).reshape(4, 5, 6)
    np.testing.assert_array_equal(from_display(to_display(voxels, affine, plane), affine, plane), voxels)


def test_display_knows_where_it_is() -> None:
    affine = oblique("PIR", [0.1, 0.2, 0.3], [0.7, 1.1, 3.0])
    shown = display(Scan(np.zeros((1, 4, 5, 6), dtype=np.float32), affine, (0.7, 1.1, 3.0)), "axial")
    ends = np.array(list(itertools.product((0, 3), (0, 4), (0, 5))))
    expected = ends @ affine[:3, :3].T + affine[:3, 3]
    assert shown.spacing == pytest.approx((0.7, 3.0))  # rows run along the first voxel axis, columns along the last
    np.testing.assert_allclose(np.sort(shown.corners(), axis=0), np.sort(expected, axis=0), atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 5))
def test_whole_factors_are_block_means(factor: int, size: int) -> None:
    values = np.random.default_rng(factor).random((2, factor * size, factor * size)).astype(np.float32)
    axes = [Axis.fit(factor * size, size, 1.0, None)] * 2
    expected = values.reshape(2, size, factor, size, factor).mean((2, 4))
    np.testing.assert_allclose(resample(values, axes, 0.0), expected, atol=1e-6)


@given(st.integers(2, 40), st.integers(1, 40), st.floats(0.3, 3.0))
def test_what_fills_a_field_of_view_is_kept_and_the_rest_padded(length: int, size: int, zoom: float) -> None:
    axis = Axis.fit(length, size, 2.0, 2.0 * length * zoom)
    ones = resample(np.ones(length, dtype=np.float32), [axis], -1.0)
    inside = (np.abs(np.arange(size) + 0.5 - size / 2) + 0.5) * axis.step <= length / 2
    np.testing.assert_allclose(ones[inside], 1, atol=1e-5)
    assert ones.min() >= -1 - 1e-5
    if axis.step >= 1:  # area is neither lost nor made
        covered = min(length, length * zoom)
        assert ((ones + 1) / 2).sum() * axis.step == pytest.approx(covered, rel=1e-4)


@given(st.integers(8, 30), st.integers(1, 4))
def test_restored_masks_are_the_original_at_fine_resolution(length: int, fine: int) -> None:
    mask = np.random.default_rng(length).random((3, length, length)) > 0.5
    axes = [Axis.fit(length, length * fine, 1.0, None)] * 2
    np.testing.assert_array_equal(restore(resample(mask.astype(np.float32), axes, 0.0) >= 0.5, axes), mask)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CODES),
    st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3),
    st.sampled_from(sorted(PLANES)),
    st.booleans(),
)
def test_exported_masks_lie_where_the_volume_lies(
    tmp_path_factory: pytest.TempPathFactory, code: str, angles: list[float], plane: str, only_qform: bool
) -> None:
    """A mask goes through slicing and back to NIfTI: same voxels, shape and affine, whatever the orientation."""
    folder = tmp_path_factory.mktemp("export")
    affine = oblique(code, angles, [1.0, 1.5, 2.0])
    mask = np.zeros((9, 10, 11), dtype=np.uint8)
    mask[2:6, 3:8, 1:7] = 1
    for name, values in {"image": mask * 100, "mask": mask}.items():
        image = nib.Nifti1Image(values, affine)
        if only_qform:
            image.set_sform(None, 0)
        nib.save(image, folder / f"{name}.nii.gz")
    rows = [
        {"image": "image.nii.gz", "mask": "mask.nii.gz", "patient": "p", "split": s} for s in ("train", "val", "test")
    ]
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    settings = {"plane": plane, "size": 33, "allow_leakage": True, "cache": folder / "cache"}
    data = Data(folder / "m.csv", intensity=Window(0.0, 100.0), **settings)
    masks = data.split("test").masks
    (written,) = data.export_masks("test", masks, folder / "out")
    original, exported = nib.load(folder / "image.nii.gz"), nib.load(written)
    np.testing.assert_array_equal(exported.affine, original.affine)
    assert exported.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(exported.dataobj), mask)
