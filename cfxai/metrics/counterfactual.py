"""Whether counterfactuals do what they are for: change the classifier's mind, and nothing without need."""

import torch
from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.protocols import Result


class CounterfactualQuality:
    """Flips, validity and size of the change; every value is None for attributors, which make no counterfactuals.

    `flip_rate`: of the abnormal images that the classifier calls abnormal (argmax > 0; `flip_images` of them), the
    share whose counterfactual it calls the target. `counterfactual_validity`: of all images with p > tau
    (`validity_images` of them), the share with |p(x) - p(x_cf)| > tau, p the probability of being abnormal, as COIN's
    CV. `l1`, `l1_normal`: mean |x - x_cf| on abnormal and normal images, where [0, 1] is the whole intensity range.
    `prediction_kept_on_normal`: of the normal images called normal, the share whose counterfactual is.

    Args:
        tau: in (0, 1).
    """

    def __init__(self, *, tau: float = 0.8) -> None:
        if not 0 < tau < 1:
            raise ConfigError(f"metrics.tau: {tau} must lie between 0 and 1, both excluded.")
        self.tau = tau
        self.flipped: list[bool] = []
        self.valid: list[bool] = []
        self.kept: list[bool] = []
        self.change: list[float] = []
        self.change_on_normal: list[float] = []

    def update(self, result: Result) -> None:
        if result.counterfactual is None or result.counterfactual_probability is None:
            return
        before, after = result.probability.argmax(1), result.counterfactual_probability.argmax(1)
        abnormal, called_abnormal = result.label > 0, before > 0
        reached = after == result.counterfactual.target
        self.flipped += reached[abnormal & called_abnormal].tolist()
        self.kept += (after == 0)[~abnormal & ~called_abnormal].tolist()
        p, p_cf = _abnormal(result.probability), _abnormal(result.counterfactual_probability)
        self.valid += ((p - p_cf).abs() > self.tau)[p > self.tau].tolist()
        change = result.counterfactual.difference.flatten(1).mean(1)
        self.change += change[abnormal].tolist()
        self.change_on_normal += change[~abnormal].tolist()

    def compute(self) -> dict[str, float | None]:
        applies = bool(self.change or self.change_on_normal)
        return {
            "flip_rate": _mean(self.flipped),
            "flip_images": float(len(self.flipped)) if applies else None,
            "counterfactual_validity": _mean(self.valid),
            "validity_images": float(len(self.valid)) if applies else None,
            "l1": _mean(self.change),
            "l1_normal": _mean(self.change_on_normal),
            "prediction_kept_on_normal": _mean(self.kept),
        }


def _abnormal(probability: Tensor) -> Tensor:
    return 1 - probability[:, 0]


def _mean(values: list[float] | list[bool]) -> float | None:
    return float(torch.tensor(values, dtype=torch.double).mean()) if values else None
