"""Whether counterfactuals convince in both directions, and not only the classifier that they were made for."""

from collections.abc import Callable
from typing import Any

import torch

from cfxai.metrics.per_image import PerImage
from cfxai.protocols import NORMAL, Image, Labels, Logits, Result

RATES = ("flip_rate_to_normal", "flip_rate_to_abnormal", "oracle_flip_rate")
SIZES = ("target_probability", "cycle_l1", "identity_l1")


class BothWays:
    """Flips to and from the normal class, with 95 % intervals over patients (`…_ci`); None where nothing defines one.

    `flip_rate_to_normal`, `flip_rate_to_abnormal`: of the images of the other side that the classifier calls so, the
    share whose counterfactual it calls the target. `oracle_flip_rate`: of those that an independently trained
    classifier calls by their label too, the share whose counterfactual *it* calls the target; an adversarial
    perturbation is hardly passed on to it, a change of what the image shows is. `target_probability`: mean over
    counterfactuals for another class than the image's. `cycle_l1`: mean |x - x_back| / 2 of the same, x_back being the
    counterfactual of the counterfactual. `identity_l1`: mean |x - x_cf| / 2 of images asked for their own class.
    Differences are shares of the intensity range.

    Args:
        oracle: images to logits, trained by itself on the same classes; None = not known.
        resamples: bootstrap samples of patients.
        seed: of the bootstrap.
    """

    def __init__(
        self, oracle: Callable[[Image], Logits] | None = None, *, resamples: int = 2000, seed: int = 0
    ) -> None:
        self.oracle = oracle
        self.found = PerImage((*RATES, *SIZES), resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        changed, probability = result.counterfactual, result.counterfactual_probability
        if changed is None or probability is None:
            return
        target, label = changed.target, result.label
        called = (result.probability.argmax(1) == NORMAL) == (label == NORMAL)
        reached = probability.argmax(1) == target
        agreed = convinced = None
        if self.oracle is not None:
            agreed = (self._oracle_calls(changed.image) == NORMAL) == (label == NORMAL)
            convinced = self._oracle_calls(changed.counterfactual) == target
        there = _distance(changed.image, changed.counterfactual)
        back = None if result.returned is None else _distance(changed.image, result.returned)
        for i, group in enumerate(result.group):
            if target[i] == label[i]:
                self.found.add(group, {"identity_l1": float(there[i])})
                continue
            values: dict[str, float | None] = {"target_probability": float(probability[i, target[i]])}
            if back is not None:
                values["cycle_l1"] = float(back[i])
            if called[i]:
                values[RATES[0] if target[i] == NORMAL else RATES[1]] = float(reached[i])
                if agreed is not None and convinced is not None and agreed[i]:
                    values["oracle_flip_rate"] = float(convinced[i])
            self.found.add(group, values)

    def compute(self) -> dict[str, Any]:
        return dict(self.found.summary())

    @torch.no_grad()
    def _oracle_calls(self, image: Image) -> Labels:
        assert self.oracle is not None
        return self.oracle(image).argmax(1)


def _distance(a: Image, b: Image) -> torch.Tensor:
    return (a - b).abs().flatten(1).mean(1) / 2
