"""Pictures: what is drawn where, for grey and colour images and volumes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfxai.protocols import Counterfactual, Result
from cfxai.report import case_row, case_title, write_panels
from cfxai.viz import FALSE, HIT, MISSED, agreement, grey, panel, telling_slice


def result(shape: tuple[int, ...] = (1, 8, 8), *, counterfactual: bool = True, truth: bool = True) -> Result:
    image = torch.rand(1, *shape) * 2 - 1
    probability = torch.tensor([[0.25, 0.75]])
    target = torch.tensor([0])
    return Result(
        image=image,
        label=torch.tensor([1]),
        saliency=torch.rand(1, *shape[1:]),
        mask=torch.rand(1, *shape[1:]) > 0.5,
        group=("patient 7",),
        probability=probability,
        truth=torch.rand(1, *shape[1:]) > 0.5 if truth else None,
        counterfactual=Counterfactual(image, -image, target) if counterfactual else None,
        counterfactual_probability=probability.flip(1) if counterfactual else None,
    )


def test_images_become_displayable() -> None:
    assert grey(np.full((1, 4, 5), -1.0, np.float32)).max() == 0
    assert grey(np.full((1, 4, 5), 3.0, np.float32)).min() == 1
    assert grey(np.zeros((3, 4, 5), np.float32)).shape == (4, 5, 3)
    assert grey(np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None]).item() == 0.5, (
        "the middle of neighbouring slices"
    )
    volume = np.stack([np.full((4, 5), v, np.float32) for v in (-1, 0, 1)])[None]
    assert [grey(volume, number).mean() for number in range(3)] == [0, 0.5, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_agreement_colours_hits_false_alarms_and_misses(channels: int) -> None:
    picture = grey(np.full((channels, 2, 2), -1.0, np.float32))
    drawn = agreement(picture, np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]]))
    expected = [[HIT, FALSE], [MISSED, (0, 0, 0)]]
    np.testing.assert_allclose(drawn, 0.65 * np.array(expected), atol=1e-6)


def test_of_a_volume_the_slice_with_most_lesion_is_shown() -> None:
    truth, mask = np.zeros((6, 4, 4), bool), np.zeros((6, 4, 4), bool)
    assert telling_slice(truth, mask) == 3, "the middle, when nothing is marked"
    mask[1, 0, 0] = True
    assert telling_slice(truth, mask) == 1
    truth[4, :2, :2] = truth[5, 0, 0] = True
    assert telling_slice(truth, mask) == 4
    truth[:] = True
    assert telling_slice(truth, mask) == 3, "the middle, when all slices are marked alike"
    assert telling_slice(truth[4], mask[4]) is None, "a picture has no slices"


def test_every_picture_of_a_volume_is_of_one_slice_which_the_title_names() -> None:
    volume = replace(result((1, 6, 8, 8)), truth=torch.zeros(1, 6, 8, 8, dtype=torch.bool))
    volume.truth[0, 4, 2:5, 2:5] = True
    row = case_row("coin", volume, {"rise": volume.saliency})
    assert volume.counterfactual is not None
    expected = {
        "x": (volume.image[0, 0, 4] + 1) / 2,
        "x_cf": (volume.counterfactual.counterfactual[0, 0, 4] + 1) / 2,
        "|x - x_cf|": volume.counterfactual.difference[0, 4],
        "mask": volume.mask[0, 4],
        "truth": volume.truth[0, 4],
        "~rise": volume.saliency[0, 4],
    }
    for name, picture in expected.items():
        np.testing.assert_allclose(row[name], picture.numpy(), atol=1e-6)
    assert case_title(volume) == "patient 7\nabnormal, p 0.75 → 0.25\nslice 5 of 6"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 6, 8, 8)])
def test_a_row_has_what_there_is(shape: tuple[int, ...]) -> None:
    maps = {"rise": torch.rand(1, *shape[1:])}
    row = case_row("coin", result(shape), maps)
    assert list(row) == ["x", "x_cf", "|x - x_cf|", "mask", "truth", "hit, false, missed", "~rise"]
    assert all(picture.shape[:2] == (8, 8) for picture in row.values())
    assert list(case_row("coin", result(shape, truth=False), {})) == ["x", "x_cf", "|x - x_cf|", "mask"]
    assert list(case_row("rise", result(shape, counterfactual=False, truth=False), {})) == ["x", "mask"]


def test_titles_tell_patient_label_and_both_probabilities() -> None:
    assert case_title(result()) == "patient 7\nabnormal, p 0.75 → 0.25"
    assert case_title(result(counterfactual=False)) == "patient 7\nabnormal, p 0.75"


def test_a_panel_is_a_png_that_grows_with_its_rows_and_columns(tmp_path: Path) -> None:
    row = case_row("coin", result(), {})
    sizes = []
    for rows in (1, 3):
        panel(tmp_path / f"{rows}.png", [row] * rows, titles=["a"] * rows, caption="threshold 0.25")
        with Image.open(tmp_path / f"{rows}.png") as picture:
            sizes.append(picture.size)
            assert np.asarray(picture).std() > 10
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 2 * sizes[0][1]


def test_no_change_at_all_can_be_drawn(tmp_path: Path) -> None:
    flat = {"x": np.zeros((8, 8), np.float32), "|x - x_cf|": np.zeros((8, 8), np.float32)}
    panel(tmp_path / "flat.png", [flat, {"x": flat["x"]}], titles=["a", "b"])
    assert (tmp_path / "flat.png").stat().st_size > 1000


def test_an_overview_and_a_file_per_image(tmp_path: Path) -> None:
    shown = {"coin": {3: result(), 5: result()}, "rise": {3: result(counterfactual=False)}}
    ids = [f"a/b-{i}" for i in range(6)]
    paths = write_panels(tmp_path / "panels", "coin", shown, ids, "caption")
    assert [path.name for path in paths] == ["overview.png", "a-b-3.png", "a-b-5.png"]
    assert all(path.is_file() for path in paths)
    assert write_panels(tmp_path, "coin", {"coin": {}}, ids, "") == []
