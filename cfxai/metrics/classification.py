"""How good the classifier under explanation is."""

import numpy as np
from sklearn.metrics import roc_auc_score

from cfxai.errors import DataError
from cfxai.protocols import Result


class ClassifierQuality:
    """AUROC, accuracy, calibration, cross-entropy and confusion.

    `auroc` is that of abnormal against normal, `accuracy` over all classes, `confusion[label][prediction]` counts.
    The expected calibration error is that of the predicted class's probability in equally wide bins (Guo et al. 2017,
    arXiv:1706.04599). AUROC is None when only one of normal and abnormal was seen; all are None without images.

    Args:
        bins: of the calibration error.
    """

    def __init__(self, *, bins: int = 15) -> None:
        self.bins = bins
        self.probabilities: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def update(self, result: Result) -> None:
        self.probabilities.append(result.probability.double().cpu().numpy())
        self.labels.append(result.label.cpu().numpy())

    def compute(self) -> dict[str, float | list[list[int]] | None]:
        """
        Raises:
            DataError: a label that the classifier has no class for.
        """
        if not sum(map(len, self.labels)):
            return dict.fromkeys(("auroc", "accuracy", "ece", "cross_entropy", "confusion"))
        probability, label = np.concatenate(self.probabilities), np.concatenate(self.labels)
        classes = probability.shape[1]
        if label.max() >= classes:
            raise DataError(
                f"A label is {label.max()}, but the classifier has {classes} classes; raise classifier.classes."
            )
        predicted = probability.argmax(1)
        confusion = np.zeros((classes, classes), dtype=int)
        np.add.at(confusion, (label, predicted), 1)
        return {
            "auroc": _auroc(probability, label),
            "accuracy": float((predicted == label).mean()),
            "ece": self._calibration_error(probability.max(1), predicted == label),
            "cross_entropy": float(-np.log(probability[np.arange(len(label)), label].clip(1e-8)).mean()),
            "confusion": confusion.tolist(),
        }

    def _calibration_error(self, confidence: np.ndarray, correct: np.ndarray) -> float:
        bin_of = np.ceil(confidence * self.bins).astype(int)
        gaps = np.bincount(bin_of, weights=correct - confidence)
        return float(np.abs(gaps).sum() / len(confidence))


def _auroc(probability: np.ndarray, label: np.ndarray) -> float | None:
    abnormal = label > 0
    if abnormal.all() or not abnormal.any():
        return None
    # Ranks as 1 - p_normal does, without the ties that 1 - p has among very confident predictions.
    return float(roc_auc_score(abnormal, probability[:, 1:].sum(1) - probability[:, 0]))
