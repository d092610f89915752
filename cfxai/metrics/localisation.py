"""How much of a map lies in the lesion, without a threshold."""

import numpy as np
from sklearn.metrics import roc_auc_score

from cfxai.errors import ConfigError
from cfxai.metrics.per_image import PerImage, Summary
from cfxai.protocols import Result


class Localisation:
    """Means over the abnormal images whose lesion mask marks anything, of maps in [0, 1]; others count nowhere.

    `relevance_mass`: the part of the map's sum that lies in the lesion, also called the energy-based pointing game;
    `relevance_rank`: of as many highest pixels as the lesion has, the share in it (both Arras et al. 2022,
    arXiv:2003.07258). `top_intersection`: the same of the `top` highest pixels (Theiner et al. 2022,
    arXiv:2104.14995). `pixel_auroc`: the probability that a lesion pixel is above one outside, None for a lesion that
    fills the image. A map of zeros has no mass anywhere, hence none in the lesion. Of equal pixels at the end of the
    highest ones the expected part counts, so that no order of pixels matters. All but the first are the same under any
    strictly increasing rescaling of a map. With intervals over patients.

    Args:
        top: share of the image's pixels that `top_intersection` looks at, in (0, 1]; one pixel at least.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ConfigError: `top` outside its range.
    """

    def __init__(self, *, top: float = 0.01, resamples: int = 2000, seed: int = 0) -> None:
        if not 0 < top <= 1:
            raise ConfigError(f"metrics.localisation.top: {top} must lie in (0, 1].")
        self.top = top
        names = ("relevance_mass", "relevance_rank", "top_intersection", "pixel_auroc")
        self.found = PerImage(names, resamples=resamples, seed=seed)

    def update(self, result: Result) -> None:
        if result.truth is None:
            return
        saliencies, truths = (x.flatten(1).cpu().numpy() for x in (result.saliency.double(), result.truth))
        for saliency, truth, label, group in zip(saliencies, truths, result.label.tolist(), result.group, strict=True):
            if label == 0 or not truth.any():
                continue
            total, top = saliency.sum(), max(1, round(self.top * truth.size))
            self.found.add(
                group,
                {
                    "relevance_mass": float(saliency[truth].sum() / total) if total > 0 else 0.0,
                    "relevance_rank": _of_highest(saliency, truth, int(truth.sum())),
                    "top_intersection": _of_highest(saliency, truth, top),
                    "pixel_auroc": None if truth.all() else float(roc_auc_score(truth, saliency)),
                },
            )

    def compute(self) -> Summary:
        return self.found.summary()


def _of_highest(saliency: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Of the `count` highest pixels, the share in the lesion."""
    last = np.partition(saliency, -count)[-count]
    above, tied = saliency > last, saliency == last
    inside = truth[above].sum() + (count - above.sum()) * truth[tied].mean()
    return float(inside / count)
