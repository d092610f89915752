"""Does a map favour the real anatomy over regions of the same shape and area elsewhere?

A test of the anatomy, not of the patients: the maps stay, the regions move. The score is the mean of the map over the
region.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num, Shaped
from scipy.fft import irfftn, rfftn

from cfxai.regions.statistics.effects import interval
from cfxai.regions.statistics.multiplicity import holm
from cfxai.regions.statistics.patients import Ids, require_patients
from cfxai.regions.statistics.sentences import counted, left_out, number, p_value, sentence

LEAST = 4
"""Patients, for an interval over them."""


@dataclass(frozen=True)
class MovedRegion:
    """A region against itself elsewhere.

    Attributes:
        observed, expected: mean of the map over the region where it is, and over where it could be; of patients.
        low, high: 95 % BCa interval of observed minus expected, over patients.
        p: one-sided, of a mean over patients this high when each patient's region is anywhere.
        adjusted_p: by Holm over the `family` of regions.
        moved: how.
    """

    name: str
    observed: float
    expected: float
    low: float
    high: float
    p: float
    adjusted_p: float
    family: int
    moved: str
    patients: int
    left_out: int

    @property
    def sentence(self) -> str:
        excess = f"{number(self.observed - self.expected)} (95 % CI {number(self.low)} to {number(self.high)})"
        means = f"{self.name}: mean {number(self.observed)}, {excess} more than where the region is {self.moved}"
        adjusted = f"{p_value(self.adjusted_p, 'Holm p')} in a family of {self.family}"
        tests = f"one-sided {p_value(self.p)}, {adjusted}"
        return sentence([means, tests, counted(self.patients, "patient"), *left_out(self.left_out)])


def compare_translated(
    saliency: Num[np.ndarray, "n *space"],
    masks: Shaped[np.ndarray, "n r *space"],
    patients: Ids,
    regions: Sequence[str],
    *,
    body: Shaped[np.ndarray, "n *space"] | None = None,
    draws: int = 5000,
    seed: int = 0,
) -> list[MovedRegion]:
    """Regions against all their translations, wrapping around at the borders, as maps on a torus (spins on a sphere).

    The scores of all translations are one cross-correlation by FFT. Maps that are dark around the body favour any
    region inside of it; `body` masks keep the regions inside.

    Args:
        masks: in [0, 1], soft or not. body: only places count that leave 95 % of a region in it, or as much as lies in
            it where the region is.

    Raises:
        DataError: fewer than 4 patients with all regions.
    """
    maps, parts = np.asarray(saliency, float), np.asarray(masks, float)
    kept, patient, weight = _complete(maps, parts, patients)
    random = np.random.default_rng(seed)
    count, null = patient.max() + 1, np.zeros((draws, len(regions)))
    observed, expected = np.zeros((2, count, len(regions)))
    for image, owner, share in zip(np.flatnonzero(kept), patient, weight, strict=True):
        places = _at_all_places(maps[image], parts[image])
        allowed = np.ones(places.shape, bool)
        if body is not None:
            inside = _at_all_places(np.asarray(body[image], float), parts[image])
            allowed = inside >= np.minimum(0.95, inside[:, :1]) - 1e-9
        for j, (values, may) in enumerate(zip(places, allowed, strict=True)):
            observed[owner, j] += share * values[0]
            expected[owner, j] += share * values[may].mean()
            null[:, j] += share / count * random.choice(values[may], draws)
    return _results(observed, expected, null, regions, "moved about the image", int((~kept).sum()), seed)


def compare_exchanged(
    saliency: Num[np.ndarray, "n *space"],
    masks: Shaped[np.ndarray, "n r *space"],
    patients: Ids,
    regions: Sequence[str],
    *,
    draws: int = 5000,
    seed: int = 0,
) -> list[MovedRegion]:
    """Each patient's own regions against those of other patients, permuted among them.

    Unlike a translation this leaves a region where the anatomy puts it in most patients, and asks whether the map
    follows this patient's. Images must lie in one frame.

    Args:
        masks: in [0, 1], soft or not.

    Raises:
        DataError: fewer than 4 patients with all regions.
    """
    maps, parts = np.asarray(saliency, float), np.asarray(masks, float)
    kept, patient, weight = _complete(maps, parts, patients)
    count = patient.max() + 1
    average = np.zeros((count, len(patient)))  # from images to patients
    average[patient, np.arange(len(patient))] = weight
    random = np.random.default_rng(seed)
    orders = random.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)
    flat, null = maps[kept].reshape(len(patient), -1), np.zeros((draws, len(regions)))
    observed, expected = np.zeros((2, count, len(regions)))
    for j in range(len(regions)):
        region = parts[kept, j].reshape(len(patient), -1)
        crossed = flat @ (region / region.sum(1, keepdims=True)).T
        exchanged = average @ crossed @ average.T
        observed[:, j] = average @ np.diag(crossed)
        expected[:, j] = (exchanged.sum(1) - np.diag(exchanged)) / (count - 1)
        np.fill_diagonal(exchanged, observed[:, j])
        null[:, j] = exchanged[np.arange(count), orders].mean(1)
    return _results(observed, expected, null, regions, "in other patients", int((~kept).sum()), seed)


def _at_all_places(
    field: Float[np.ndarray, "*space"], parts: Float[np.ndarray, "r *space"]
) -> Float[np.ndarray, "r m"]:
    """Mean of the field over each region moved by every vector, the zero vector first."""
    space = tuple(range(1, parts.ndim))
    moved = irfftn(rfftn(field) * np.conj(rfftn(parts, axes=space)), s=field.shape, axes=space)
    return moved.reshape(len(parts), -1) / parts.reshape(len(parts), -1).sum(1, keepdims=True)


def _complete(
    maps: Float[np.ndarray, "n *space"], parts: Float[np.ndarray, "n r *space"], patients: Ids
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Images whose regions all have an area, and of these the patient and the share of the patient's mean."""
    space = tuple(range(1, maps.ndim))
    kept = np.isfinite(maps).all(space) & (parts.sum(tuple(axis + 1 for axis in space)) > 0).all(1)
    patient = np.unique(np.asarray(patients)[kept], return_inverse=True)[1]
    require_patients(len(np.unique(patient)), LEAST, "A comparison with moved regions")
    return kept, patient, 1 / np.bincount(patient)[patient]


def _results(
    observed: Float[np.ndarray, "p r"],
    expected: Float[np.ndarray, "p r"],
    null: Float[np.ndarray, "d r"],
    regions: Sequence[str],
    moved: str,
    left_out: int,
    seed: int,
) -> list[MovedRegion]:
    found = observed.mean(0)
    rounding = 1e-9 * np.abs(null).max(0)
    p = ((null >= found - rounding).sum(0) + 1) / (len(null) + 1)
    adjusted = holm(p)
    low, high = interval(((observed - expected).T,), np.mean, seed=seed)
    return [
        MovedRegion(
            name=name,
            observed=float(found[j]),
            expected=float(expected[:, j].mean()),
            low=float(low[j]),
            high=float(high[j]),
            p=float(p[j]),
            adjusted_p=float(adjusted[j]),
            family=len(regions),
            moved=moved,
            patients=len(observed),
            left_out=left_out,
        )
        for j, name in enumerate(regions)
    ]
