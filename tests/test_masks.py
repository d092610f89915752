"""Maps to masks: normalisation, cutoffs, post-processing, and the search for the best threshold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.filters import threshold_otsu
from torch import Tensor

from cfxai.errors import ConfigError, DataError, NumericsError
from cfxai.masks.refine import Refine
from cfxai.masks.search import ThresholdSearch
from cfxai.masks.threshold import Otsu, Quantile, Threshold
from cfxai.protocols import MaskExtractor


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


EXTRACTORS = [Threshold(0.5), Threshold(0.0), Quantile(0.9), Otsu()]


@pytest.mark.parametrize("extract", EXTRACTORS)
class TestEveryExtractor:
    @pytest.mark.parametrize("level", [0.0, 0.7, 123.0])
    def test_a_constant_map_gives_an_empty_mask(self, extract: MaskExtractor, level: float) -> None:
        assert isinstance(extract, MaskExtractor)
        assert not extract(torch.full((2, 8, 8), level)).any()

    def test_each_image_is_judged_by_itself_and_scale_does_not_matter(self, extract: MaskExtractor) -> None:
        saliency = maps(3, 12, 10)
        together = extract(saliency * torch.tensor([1.0, 64.0, 0.25]).view(-1, 1, 1))
        assert together.any()
        for i in range(3):
            assert torch.equal(together[i], extract(saliency[i : i + 1])[0])

    def test_volumes(self, extract: MaskExtractor) -> None:
        assert extract(maps(2, 4, 6, 5)).shape == (2, 4, 6, 5)

    def test_a_map_that_is_not_finite_is_refused(self, extract: MaskExtractor) -> None:
        with pytest.raises(NumericsError, match="NaN"):
            extract(torch.tensor([[[0.1, float("nan")]]]))


def test_minmax_is_per_image_and_none_keeps_units() -> None:
    saliency = torch.tensor([[[0.2, 0.4, 0.6]], [[0.1, 0.1, 0.9]]])
    assert torch.allclose(
        Threshold(0.5).normalised(saliency), torch.tensor([[[0.0, 0.5, 1.0]], [[0.0, 0.0, 1.0]]]), atol=1e-6
    )
    difference = Threshold(0.25, normalise="none")
    assert torch.equal(difference.normalised(saliency), saliency)
    assert difference(saliency).tolist() == [[[False, True, True]], [[False, False, True]]]


def test_the_threshold_itself_is_outside() -> None:
    assert Threshold(0.25, normalise="none")(torch.tensor([[[0.25, 0.2500001]]])).tolist() == [[[False, True]]]


def test_another_threshold_keeps_the_rest() -> None:
    other = replace(Threshold(0.25, normalise="none", refine=Refine()), threshold=0.1)
    assert other == Threshold(0.1, normalise="none", refine=Refine())


def test_quantile_keeps_the_share_asked_for() -> None:
    mask = Quantile(0.9, normalise="none")(torch.randperm(100).reshape(1, 10, 10) / 100)
    assert mask.sum() == 10


def test_otsu_is_skimages() -> None:
    saliency = maps(2, 16, 16) ** 3
    mask = Otsu(normalise="none")(saliency)
    for one, found in zip(saliency.numpy(), mask.numpy(), strict=True):
        assert (found == (one > threshold_otsu(one))).all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Threshold(1.5), "threshold"),
        (lambda: Threshold(-0.1), "threshold"),
        (lambda: Quantile(1.0), "quantile"),
        (lambda: Threshold(0.5, normalise="min-max"), "normalise"),
        (lambda: Refine(opening=-1), "opening"),
    ],
)
def test_impossible_settings_are_refused_by_name(make: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make()


def test_refine_keeps_both_lesions_and_drops_the_speck() -> None:
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 4:10, 4:10] = mask[0, 20:24, 20:26] = True
    clean = mask.clone()
    mask[0, 15, 15] = mask[0, 28, 2:30] = True  # a speck and a line
    refined = Refine()(mask)
    # Opening by a cross rounds the four corners of each rectangle.
    corners = clean & ~refined
    assert not (refined & ~clean).any()
    assert corners.sum() == 8


def test_refine_fills_holes_after_opening() -> None:
    ring = torch.ones(1, 15, 15, dtype=torch.bool)
    ring[0, 6:9, 6:9] = False
    assert Refine(opening=1)(ring).all()
    assert torch.equal(Refine(opening=1, fill_holes=False, min_area=0)(ring), ring)


def test_refine_spares_a_lesion_cut_by_the_edge() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 0:3, 5:10] = True
    assert torch.equal(Refine()(mask)[0, 0:2], mask[0, 0:2])


@pytest.mark.parametrize(("min_area", "kept"), [(9, True), (10, False)])
def test_refine_counts_corner_neighbours_and_keeps_the_exact_area(min_area: int, kept: bool) -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    for i in range(9):
        mask[0, i + 2, i + 2] = True
    assert Refine(opening=0, min_area=min_area)(mask).any() == kept


def test_refine_works_in_three_dimensions_where_slices_would_differ() -> None:
    shell = torch.zeros(1, 12, 12, 12, dtype=torch.bool)
    shell[0, 2:10, 2:10, 2:10] = True
    shell[0, 5:7, 5:7, 5:7] = False
    shell[0, 0, 0, 0] = True
    refined = Refine(opening=0)(shell)
    assert refined[0, 5, 5, 5]
    assert not refined[0, 0, 0, 0]
    assert refined.sum() == 8**3


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)),
    st.integers(0, 2),
    st.integers(0, 12),
)
def test_opening_and_pruning_only_remove_and_refining_twice_is_refining_once(
    mask: np.ndarray, opening: int, min_area: int
) -> None:
    refine = Refine(opening=opening, fill_holes=False, min_area=min_area)
    once = refine(torch.from_numpy(mask)[None])
    assert not (once[0].numpy() & ~mask).any()
    assert torch.equal(refine(once), once)


@settings(max_examples=50, deadline=None)
@given(
    saliency=hnp.arrays(np.float32, (3, 4, 5), elements=st.sampled_from(np.linspace(0, 1, 33, dtype=np.float32))),
    truth=hnp.arrays(bool, (3, 4, 5)),
    levels=st.sampled_from([7, 10, 32]),
)
def test_threshold_search_is_trying_each_threshold(saliency: np.ndarray, truth: np.ndarray, levels: int) -> None:
    if not truth.any():
        truth[0, 0, 0] = True
    search = ThresholdSearch(levels)
    for one, lesion in zip(torch.from_numpy(saliency), torch.from_numpy(truth), strict=True):
        search.update(one[None], lesion[None])

    candidates = [float(np.float32(i / levels)) for i in range(levels)]
    masks = [Threshold(t, normalise="none")(torch.from_numpy(saliency)).numpy() for t in candidates]
    iou = [(mask & truth).sum() / (mask | truth).sum() for mask in masks]
    assert search.best() == (pytest.approx(candidates[int(np.argmax(iou))]), pytest.approx(max(iou)))


def test_threshold_search_without_a_lesion_says_so() -> None:
    search = ThresholdSearch()
    search.update(maps(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    with pytest.raises(DataError, match="lesion"):
        search.best()
