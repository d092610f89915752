"""Boxes cut out of scans, in patient space, and the centres of labels."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cfxai.data.published.crop import centres_of_labels, write_crop
from cfxai.data.scan import volume


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PIR", "ASL"])
def test_a_box_has_the_values_at_its_own_places_whatever_the_orientation(tmp_path: Path, codes: str) -> None:
    rng, spacing = np.random.default_rng(0), np.array([2.0, 1.0, 0.5])
    turned = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    whole = nib.Nifti1Image(rng.integers(0, 999, (9, 14, 30)).astype(np.int16), np.diag([*spacing, 1.0]))
    scan = volume(
        np.asarray((stored := whole.as_reoriented(turned)).dataobj, np.float32), stored.affine, tmp_path / "whole"
    )
    for centre, outside in ((np.array([8.0, 6.0, 7.0]), False), (np.array([16.0, 0.0, 14.5]), True)):
        write_crop(scan, centre, (6.0, 5.0, 4.0), tmp_path / "box.nii.gz", fill=-7.0)
        box = nib.load(tmp_path / "box.nii.gz")
        assert nib.aff2axcodes(box.affine) == ("R", "A", "S")
        assert box.shape == (3, 5, 8)
        middle = box.affine[:3, :3] @ ((np.array(box.shape) - 1) / 2) + box.affine[:3, 3]
        assert (np.abs(middle - centre) <= spacing / 2 + 1e-6).all()
        filled = 0
        for voxel, value in np.ndenumerate(np.asarray(box.dataobj)):
            there = np.rint((box.affine @ [*voxel, 1])[:3] / spacing).astype(int)
            inside = (there >= 0).all() and (there < whole.shape).all()
            assert value == (whole.dataobj[tuple(there)] if inside else -7)
            filled += not inside
        assert (filled > 0) == outside


def test_the_centre_of_a_label_is_its_centre_of_mass(tmp_path: Path) -> None:
    labels = np.zeros((6, 8, 10), np.float32)
    labels[1:4, 2, 5], labels[5, 3:5, 0] = 3, 201
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -1], [0, 0, 3, 2], [0, 0, 0, 1]])
    centres = centres_of_labels(volume(labels, affine, tmp_path))
    assert sorted(centres) == [3, 201]
    np.testing.assert_allclose(centres[3], (affine @ [2, 2, 5, 1])[:3])
    np.testing.assert_allclose(centres[201], (affine @ [5, 3.5, 0, 1])[:3])
