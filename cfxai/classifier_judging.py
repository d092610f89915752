"""How good the classifier is on the judged split, at an operating point that was chosen on another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import nn

from cfxai.data.dataset import Data, Dataset
from cfxai.judging import probabilities
from cfxai.metrics.calibration import calibration_error, without_temperature
from cfxai.metrics.classification import abnormal_score, quality_of
from cfxai.metrics.operating_point import at_threshold, choose_operating_point
from cfxai.metrics.ranking_interval import ranking_interval
from cfxai.protocols import NORMAL
from cfxai.selection import spaced
from cfxai.settings import Settings

MOST = 2000
"""Validation images that an operating point is chosen on."""


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about images.

    Attributes:
        probability: [n k]. label: [n]. group: patient of each image.
        temperature: what its logits were divided by; None = it was not calibrated.
    """

    probability: Float[ndarray, "n k"]
    label: Int[ndarray, " n"]
    group: list[str]
    temperature: float | None = None

    @property
    def p_abnormal(self) -> Float[ndarray, " n"]:
        return 1 - self.probability[:, NORMAL]

    @property
    def abnormal(self) -> Bool[ndarray, " n"]:
        return self.label != NORMAL

    @property
    def uncalibrated(self) -> Float[ndarray, "n k"] | None:
        """The probabilities as they were before calibration."""
        return None if self.temperature is None else without_temperature(self.probability, self.temperature)


def predict(
    classifier: nn.Module, dataset: Dataset, indices: Sequence[int], device: torch.device, batch_size: int
) -> Predictions:
    """The classifier's probabilities of the images at `indices`; there must be one."""
    found = []
    for start in range(0, len(indices), batch_size):
        image = dataset.batch(indices[start : start + batch_size])["image"].to(device)
        found.append(probabilities(classifier, image).double().cpu().numpy())
    chosen = np.asarray(indices)
    temperature = getattr(classifier, "temperature", None)
    return Predictions(
        np.concatenate(found),
        np.asarray(dataset.labels)[chosen],
        [dataset.groups[index] for index in indices],
        None if temperature is None else float(temperature),
    )


def judge_classifier(
    classifier: nn.Module, data: Data, indices: Sequence[int], settings: Settings, device: torch.device
) -> tuple[dict[str, Any], Predictions]:
    """The metrics of `ClassifierQuality` on the judged split, how sure they are, and those of an operating point.

    `auroc_ci` and `auprc_ci` are 95 % intervals over patients, `ece_uncalibrated` and `temperature` None unless the
    classifier is calibrated. `operating_point` has the `rule`, the `threshold` that it chose on the validation split,
    and what `at_threshold` finds there; 0.5 where validation has one class only.
    """
    judged = predict(classifier, data.split("test"), indices, device, settings.batch_size)
    quality = quality_of(judged.probability, judged.label)
    quality["auroc_ci"], quality["auprc_ci"] = ranking_interval(
        abnormal_score(judged.probability), judged.abnormal, judged.group
    )
    before = judged.uncalibrated
    quality["ece_uncalibrated"] = None if before is None else calibration_error(before, judged.label)
    quality["temperature"] = judged.temperature
    rule, threshold = settings.operating_point, 0.5
    if isinstance(rule, float):
        threshold = rule
    else:
        validation = data.split("val")
        on = predict(classifier, validation, spaced(np.arange(len(validation)), MOST), device, settings.batch_size)
        threshold = choose_operating_point(on.p_abnormal, on.abnormal, rule) or threshold
    quality["operating_point"] = {
        "rule": rule,
        "threshold": threshold,
        **at_threshold(judged.p_abnormal, judged.abnormal, judged.group, threshold),
    }
    return quality, judged
