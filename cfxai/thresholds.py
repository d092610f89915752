"""Where a map becomes a mask: a fixed threshold, and one chosen on the validation split."""

from typing import Literal

import numpy as np
import torch

from cfxai.data.dataset import Dataset
from cfxai.errors import DataError
from cfxai.judging import maps
from cfxai.masks.refine import Refine
from cfxai.masks.search import ThresholdSearch
from cfxai.masks.threshold import Threshold
from cfxai.protocols import NORMAL, Attributor, Explainer
from cfxai.selection import spaced
from cfxai.settings import Settings

CHANGED_NORMAL = 0.01
"""Without lesion masks, `auto` marks this share of the pixels of normal images."""
MARKED_ABNORMAL = 0.025
"""The same for saliency maps and abnormal images: what COIN's 0.975 leaves of a map whose values are spread evenly."""


def extractors(
    explainer: Explainer | Attributor, settings: Settings, validation: Dataset, device: torch.device
) -> tuple[dict[str, Threshold], str]:
    """Mask extractors at the fixed and the automatic threshold, the main one first; and how that one was found."""
    counterfactual = isinstance(explainer, Explainer)
    normalise = "none" if counterfactual else "minmax"
    refine = Refine() if settings.postprocess else None
    fixed = Threshold(threshold=settings.fixed(counterfactual), normalise=normalise, refine=refine)
    chosen, rule = choose_threshold(
        explainer, fixed, validation, device, batch_size=settings.batch_size, most=settings.threshold_images
    )
    auto = Threshold(threshold=chosen, normalise=normalise, refine=refine)
    if settings.main(counterfactual) == "auto":
        return {"auto": auto, "fixed": fixed}, rule
    return {"fixed": fixed, "auto": auto}, "fixed, not chosen from data"


def choose_threshold(
    explainer: Explainer | Attributor,
    extract: Threshold,
    dataset: Dataset,
    device: torch.device,
    *,
    batch_size: int,
    most: int,
) -> tuple[float, str]:
    """The threshold that suits a data set best, and the rule in words. Call it on the validation split only.

    With lesion masks: the highest pooled IoU over (at most `most`, evenly spaced) abnormal images. Without: 1 % of the
    pixels of normal images pass, which needs labels only; attributors, which say nothing of normal images, then mark
    2.5 % of each abnormal image on average.

    Raises:
        DataError: the split has no image of the kind that the rule needs.
    """
    labels = np.asarray(dataset.labels)
    abnormal = spaced(np.flatnonzero(labels != NORMAL), most)
    if dataset.masks is not None and any(dataset.masks[i].any() for i in abnormal):
        search = ThresholdSearch()
        for _, batch, saliency, _, _ in maps(explainer, dataset, abnormal, device, batch_size):
            search.update(extract.normalised(saliency), batch["mask"])
        return search.best()[0], "highest pooled IoU on validation"
    counterfactual = isinstance(explainer, Explainer)
    kind: Literal["normal", "abnormal"] = "normal" if counterfactual else "abnormal"
    use = spaced(np.flatnonzero(labels == NORMAL), most) if counterfactual else abnormal
    if not use:
        raise DataError(
            f"The validation split has no {kind} images to choose a threshold on; check the labels and splits."
        )
    share = CHANGED_NORMAL if counterfactual else MARKED_ABNORMAL
    found = [extract.normalised(s).flatten() for _, _, s, _, _ in maps(explainer, dataset, use, device, batch_size)]
    threshold = float(np.quantile(torch.cat(found).cpu().numpy(), 1 - share))
    return min(threshold, 1.0), f"{share:.1%} of the pixels of {kind} validation images pass (no masks there)"
