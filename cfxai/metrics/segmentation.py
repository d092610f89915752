"""How well a map finds the lesion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from cfxai.metrics.cases import Case
from cfxai.protocols import Result

PIXELS_PER_IMAGE = 2**16  # that enter the precision-recall curve: all of a 256 x 256 image, a sample of a volume


class Segmentation:
    """Masks and maps against lesion masks.

    `iou`, `dice`, `precision`, `recall` are pooled over the pixels of abnormal images (label > 0), as in COIN; an
    abnormal image without lesion pixels counts with its false positives. `iou_ci` is the 95 % percentile interval of
    `iou` over bootstrap samples of patients, `iou_per_image` the mean over images, `pixel_auprc` the average
    precision of the normalised maps over the same pixels, `pointing_game` the share of images whose brightest pixel
    lies in the lesion (ties: the share of the brightest that do; a constant map misses), `normal_changed_area` the
    mean share of pixels in the mask on normal images. None where nothing defines a value: all but the last without
    lesion masks.

    `cases` has a row for each volume (a patient, where images are pictures), pooled over all of its images that were
    judged, normal ones too: `case`, `label`, `images`, `iou`, `dice`, and the volume of the lesion and of the mask,
    `lesion_mm3` and `found_mm3`, where voxel sizes are known. `iou_per_case` is the mean of their `iou` over abnormal
    cases. Attributors are not asked about normal images: theirs have the abnormal ones alone.

    Args:
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """

    def __init__(self, *, resamples: int = 2000, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self.counts: list[np.ndarray] = []  # per abnormal image: true positive, false positive, false negative pixels
        self.groups: list[str] = []
        self.scores: list[np.ndarray] = []
        self.truths: list[np.ndarray] = []
        self.hits: list[float] = []
        self.normal_areas: list[float] = []
        self.cases: dict[str, Case] = {}

    def update(self, result: Result) -> None:
        label = result.label.cpu().numpy()
        self.normal_areas += result.mask[result.label == 0].flatten(1).float().mean(1).tolist()
        if result.truth is None:
            return
        maps = [x.flatten(1).cpu().numpy() for x in (result.saliency, result.mask, result.truth)]
        for i in range(len(label)):
            saliency, mask, truth = (x[i] for x in maps)
            counts = np.array([(mask & truth).sum(), (mask & ~truth).sum(), (~mask & truth).sum()])
            name, voxel_mm3 = (result.case or result.group)[i], result.voxel_mm3[i] if result.voxel_mm3 else None
            self.cases.setdefault(name, Case(name, voxel_mm3)).add(int(label[i]), counts)
            if label[i] == 0:
                continue
            self.groups.append(result.group[i])
            self.counts.append(counts)
            if truth.any():
                self.hits.append(_pointing(saliency, truth))
            if saliency.size > PIXELS_PER_IMAGE:
                sample = np.random.default_rng(0).choice(saliency.size, PIXELS_PER_IMAGE, replace=False)
                saliency, truth = saliency[sample], truth[sample]
            self.scores.append(saliency)
            self.truths.append(truth)

    def compute(self) -> dict[str, Any]:
        counts = np.array(self.counts, dtype=np.int64).reshape(-1, 3)
        tp, fp, fn = (int(n) for n in counts.sum(0))
        per_image = [_ratio(t, t + p + n) for t, p, n in counts.tolist()]
        return {
            "iou": _ratio(tp, tp + fp + fn),
            "iou_ci": self._interval(counts),
            "dice": _ratio(2 * tp, 2 * tp + fp + fn),
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, tp + fn),
            "iou_per_image": _mean([iou for iou in per_image if iou is not None]),
            "iou_per_case": _mean([c.iou for c in self.cases.values() if c.label and c.iou is not None]),
            "pixel_auprc": self._average_precision(),
            "pointing_game": _mean(self.hits),
            "normal_changed_area": _mean(self.normal_areas),
            "cases": [case.row() for case in self.cases.values()] or None,
        }

    def _interval(self, counts: np.ndarray) -> list[float] | None:
        patients, patient = np.unique(self.groups, return_inverse=True)
        if len(patients) < 2:
            return None
        totals = np.zeros((len(patients), 3), dtype=np.int64)
        np.add.at(totals, patient, counts)
        random = np.random.default_rng(self.seed)
        times_drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), self.resamples)
        resampled = times_drawn @ totals
        union = resampled.sum(1)
        iou = resampled[union > 0, 0] / union[union > 0]
        return [float(bound) for bound in np.percentile(iou, [2.5, 97.5])] if iou.size else None

    def _average_precision(self) -> float | None:
        if not any(truth.any() for truth in self.truths):
            return None
        return float(average_precision_score(np.concatenate(self.truths), np.concatenate(self.scores)))


def _pointing(saliency: np.ndarray, truth: np.ndarray) -> float:
    brightest = saliency == saliency.max()
    return 0.0 if brightest.all() else float(truth[brightest].mean())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
