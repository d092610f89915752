"""The cutoff that segments best, chosen on validation images."""

import torch

from cfxai.errors import DataError
from cfxai.protocols import Mask, Saliency


class ThresholdSearch:
    """The fixed threshold of highest IoU pooled over the pixels of all images seen.

    Candidates are 0, 1/levels, 2/levels, ...; counts of pixels between them, inside and outside the truth, are all
    that is kept, and the result is exactly that of trying each in turn. Give it normalised maps (`Cut.normalised`) of
    abnormal validation images, the kind whose IoU is reported. Post-processing is not part of the search: it would
    have to be repeated for each candidate.
    """

    def __init__(self, levels: int = 2048) -> None:
        self.thresholds = torch.arange(levels) / levels
        self.counts = torch.zeros(2, levels + 1, dtype=torch.long)  # [outside | inside the truth, thresholds below]

    def update(self, saliency: Saliency, truth: Mask) -> None:
        passed = torch.bucketize(saliency.cpu().float(), self.thresholds)  # how many thresholds lie strictly below
        for inside, region in enumerate((~truth.cpu(), truth.cpu())):
            self.counts[inside] += torch.bincount(passed[region], minlength=len(self.thresholds) + 1)

    def best(self) -> tuple[float, float]:
        """The threshold and its IoU; the lowest of several equally good ones.

        Raises:
            DataError: no lesion pixel was seen.
        """
        lesion = int(self.counts[1].sum())
        if not lesion:
            raise DataError("No validation image has lesion pixels to choose a threshold by; give it as a number.")
        false_positive, true_positive = self.counts.flip(1).cumsum(1).flip(1)[:, 1:]
        iou = true_positive.double() / (lesion + false_positive)
        best = int(iou.argmax())
        return float(self.thresholds[best]), float(iou[best])
