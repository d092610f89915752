"""What of a study's measurements can be tested."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cfxai.region_study.measurement import Coarse, Measured

MISSING = 0.2
"""Regions that more than this share of the images lack are left out of the tests; fewer cost their images."""


@dataclass(frozen=True)
class Sample:
    """Measurements in the regions that can be tested: r of them.

    Attributes:
        values: the score that groups are compared in. share, published: see `Measured`.
        density: share divided by area, 1 = as much as a map without a preference puts there.
        all_regions: also those that cannot be tested. kept: the numbers of `regions` among them.
    """

    images: pd.DataFrame
    abnormal: Int[np.ndarray, " n"]
    methods: tuple[str, ...]
    regions: list[str]
    values: Float[np.ndarray, "n m r"]
    share: Float[np.ndarray, "n m r"]
    density: Float[np.ndarray, "n m r"]
    published: Float[np.ndarray, "n m r"]
    coarse: Coarse
    all_regions: tuple[str, ...]
    kept: list[int]

    @property
    def patients(self) -> np.ndarray:
        return self.images["patient"].to_numpy()

    @property
    def lesions(self) -> np.ndarray:
        """The numbers of the abnormal images."""
        return np.flatnonzero(self.abnormal)


def usable_regions(measured: Measured, score: str) -> tuple[Sample, list[str]]:
    """The regions that tests can use, and a sentence about each of the others."""
    area, share = measured.scores["area"], measured.scores["share"]
    kept, notes = [], []
    for i, name in enumerate(measured.regions):
        lacking, shares = (area[:, 0, i] == 0).mean(), share[:, :, i]
        if lacking > MISSING:
            notes.append(f"'{name}' is missing in {lacking:.0%} of the images and is left out of the tests.")
        elif (np.nanmax(shares, 0) - np.nanmin(shares, 0) < 1e-12).any():
            notes.append(f"'{name}' has the same share in every image and is left out of the tests.")
        else:
            kept.append(i)
    cells = measured.coarse
    sample = Sample(
        images=measured.images,
        abnormal=measured.abnormal,
        methods=measured.methods,
        regions=[measured.regions[i] for i in kept],
        values=measured.scores[score][..., kept],
        share=share[..., kept],
        density=share[..., kept] / np.where(area > 0, area, np.nan)[..., kept],
        published=measured.scores["published"][..., kept],
        coarse=Coarse(cells.maps, cells.regions[:, kept], cells.body),
        all_regions=measured.regions,
        kept=kept,
    )
    return sample, notes
