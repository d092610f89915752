"""Which images of a split are judged and drawn; always the same ones for the same split."""

from collections.abc import Sequence

import numpy as np

from cfxai.data.dataset import Dataset
from cfxai.protocols import NORMAL


def spaced(indices: Sequence[int] | np.ndarray, most: int) -> list[int]:
    """At most `most` of the indices, evenly spaced, so that every patient has a say."""
    if len(indices) <= most:
        return [int(i) for i in indices]
    return [int(indices[i]) for i in np.linspace(0, len(indices) - 1, most).round().astype(int)]


def shown_cases(dataset: Dataset, indices: Sequence[int], count: int) -> list[int]:
    """Images to draw: abnormal ones of different patients, spread over the split, and one normal in four."""
    abnormal = [i for i in indices if dataset.labels[i] != NORMAL]
    normal = [i for i in indices if dataset.labels[i] == NORMAL]
    return _of_patients(dataset, abnormal, count - count // 4) + _of_patients(dataset, normal, count // 4)


def _of_patients(dataset: Dataset, indices: Sequence[int], count: int) -> list[int]:
    """The middle image of each of `count` patients, or any images when there are fewer patients."""
    patients: dict[str, list[int]] = {}
    for index in indices:
        patients.setdefault(dataset.groups[index], []).append(index)
    middles = [images[len(images) // 2] for images in patients.values()]
    return spaced(middles if len(middles) >= count else indices, count)
