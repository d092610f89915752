"""The trials of a reader study: real normal images, and abnormal ones that the method made normal."""

import numpy as np
import torch

from cfxai.app.reader_study import MADE, REAL, Trial
from cfxai.data.dataset import Dataset
from cfxai.errors import DataError
from cfxai.loaded import LoadedRun
from cfxai.protocols import NORMAL
from cfxai.selection import spaced
from cfxai.viz import grey

EACH = 20
"""Of real images, and of counterfactuals."""


def trials_of(run: LoadedRun, each: int = EACH) -> list[Trial]:
    """As many real images as counterfactuals, evenly spaced over the test split; of volumes the middle slice.

    Both are drawn by the same path, so that nothing but the pixels tells them apart.

    Raises:
        ConfigError: the run has no method.
        DataError: the test split has no normal or no abnormal images, or cannot be read.
    """
    method, dataset = run.require_method(), run.data.split("test")
    labels = np.asarray(dataset.labels)
    real, made = np.flatnonzero(labels == NORMAL), np.flatnonzero(labels != NORMAL)
    count = min(len(real), len(made), each)
    if not count:
        raise DataError("--reader-study: the run's test split needs normal and abnormal images.")
    trials = [Trial(dataset.ids[i], REAL, _picture(dataset, dataset.images[i])) for i in spaced(real, count)]
    for i in spaced(made, count):
        image = dataset.batch([i])["image"].to(run.device)
        found = method.generate(image, torch.full((1,), NORMAL, device=run.device))
        trials.append(Trial(dataset.ids[i], MADE, _picture(dataset, found.counterfactual[0].cpu().numpy())))
    return trials


def _picture(dataset: Dataset, image: np.ndarray) -> np.ndarray:
    own = image if dataset.channel is None else image[dataset.channel : dataset.channel + 1]
    return grey(own, own.shape[1] // 2 if own.ndim == 4 else None)
