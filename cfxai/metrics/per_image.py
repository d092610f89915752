"""Values of single images: their mean, and how sure it is."""

from collections.abc import Mapping, Sequence

import numpy as np

Summary = dict[str, float | list[float] | None]


class PerImage:
    """Collects values by name. `summary` has the mean over images of each as `name`, and as `name_ci` its interval.

    The interval is the 95 % percentile one over bootstrap samples of patients, who keep all of their images. None where
    an image defines no value: it counts nowhere. None in the summary without any value, or any interval of less than
    two patients.

    Args:
        names: of the values.
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """

    def __init__(self, names: Sequence[str], *, resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        self.values: dict[str, list[float]] = {name: [] for name in names}
        self.groups: dict[str, list[str]] = {name: [] for name in names}

    def add(self, group: str, values: Mapping[str, float | None]) -> None:
        """One image of the patient `group`."""
        for name, value in values.items():
            if value is not None:
                self.values[name].append(value)
                self.groups[name].append(group)

    def summary(self) -> Summary:
        found: Summary = {}
        for name, values in self.values.items():
            found[name] = float(np.mean(values)) if values else None
            found[f"{name}_ci"] = self._interval(np.asarray(values), self.groups[name])
        return found

    def _interval(self, values: np.ndarray, groups: Sequence[str]) -> list[float] | None:
        patients, patient = np.unique(groups, return_inverse=True)
        if len(patients) < 2:
            return None
        totals = np.zeros((len(patients), 2))  # sum of values, number of images
        np.add.at(totals, patient, np.stack([values, np.ones_like(values)], 1))
        random = np.random.default_rng(self.seed)
        times_drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), self.resamples)
        total, images = (times_drawn @ totals).T
        return [float(bound) for bound in np.percentile(total / images, [2.5, 97.5])]
