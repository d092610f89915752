"""How a run is judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The `evaluation` section of a run's config, or what the command line says instead.

    Attributes:
        cf_threshold: of |x - x_cf| in [0, 1], or "auto" = chosen on validation for every explainer by itself.
        tau: least change of probability that counts as valid.
        postprocess: open, fill and drop small components of every mask.
        saliency_threshold: of min-max-normalised saliency; None = COIN's 0.975 beside a fixed `cf_threshold`, and each
            attributor's own best on validation beside "auto".
        skip_fid: leave FID and KID out.
        faithfulness: also measure deletion, insertion, ROAD, localisation without thresholds, and sparseness.
        sanity: also check attributors on randomised classifiers, other classes and changed images.
        sanity_images: images that they are checked on, at most.
        attributors: saliency methods to compare with, by name.
        sweep_images: abnormal images that are rendered at every severity by a method that can, at most; 0 = none.
        panels: images to draw. max_images: judge at most so many of the split; None = all.
        operating_point: probability from which an image is called abnormal, or the rule that chooses it on validation.
        threshold_images: validation images that a threshold is chosen on, at most.
        batch_size: of the forward passes.
    """

    cf_threshold: float | Literal["auto"] = "auto"
    tau: float = 0.8
    postprocess: bool = False
    saliency_threshold: float | None = None
    skip_fid: bool = False
    faithfulness: bool = False
    sanity: bool = False
    sanity_images: int = 8
    attributors: Sequence[str] = ()
    sweep_images: int = 16
    panels: int = 8
    max_images: int | None = None
    operating_point: str | float = 0.5
    threshold_images: int = 100
    batch_size: int = 32

    COIN_CF = 0.25
    COIN_SALIENCY = 0.975

    @property
    def rule(self) -> Literal["auto", "fixed"]:
        return "auto" if self.cf_threshold == "auto" else "fixed"

    def fixed(self, counterfactual: bool) -> float:
        """The threshold that no data chose: the one asked for, else COIN's."""
        if counterfactual:
            return self.COIN_CF if self.cf_threshold == "auto" else float(self.cf_threshold)
        return self.COIN_SALIENCY if self.saliency_threshold is None else self.saliency_threshold

    def main(self, counterfactual: bool) -> Literal["auto", "fixed"]:
        """Which of the two thresholds an explainer is reported at first."""
        return "fixed" if not counterfactual and self.saliency_threshold is not None else self.rule
