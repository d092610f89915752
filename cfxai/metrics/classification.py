"""How good the classifier under explanation is."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import average_precision_score, roc_auc_score

from cfxai.errors import DataError
from cfxai.metrics.calibration import calibration_error
from cfxai.protocols import Result

NAMES = ("auroc", "auprc", "accuracy", "ece", "brier", "cross_entropy", "confusion")


class ClassifierQuality:
    """AUROC, average precision, accuracy, calibration, Brier score, cross-entropy and confusion.

    `auroc` and `auprc` (average precision) are those of abnormal against normal, `accuracy` over all classes,
    `confusion[label][prediction]` counts. `ece` is the calibration error of the predicted class's probability, `brier`
    half the squared distance between probabilities and label (Brier 1950): of two classes (p - y)². With more than
    two classes, `auroc_macro` and `auprc_macro` are means over the classes of one against the rest. AUROC and AUPRC are
    None when only one side was seen; all are None without images.

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

    def compute(self) -> dict[str, Any]:
        """
        Raises:
            DataError: a label that the classifier has no class for.
        """
        if not sum(map(len, self.labels)):
            return dict.fromkeys(NAMES)
        return quality_of(np.concatenate(self.probabilities), np.concatenate(self.labels), self.bins)


def quality_of(probability: Float[ndarray, "n k"], label: Int[ndarray, " n"], bins: int = 15) -> dict[str, Any]:
    """The values that `ClassifierQuality` explains.

    Raises:
        DataError: a label that the classifier has no class for.
    """
    classes = probability.shape[1]
    if label.max() >= classes:
        raise DataError(
            f"A label is {label.max()}, but the classifier has {classes} classes; raise classifier.classes."
        )
    predicted = probability.argmax(1)
    confusion = np.zeros((classes, classes), dtype=int)
    np.add.at(confusion, (label, predicted), 1)
    true = np.eye(classes)[label]
    auroc, auprc = ranking(abnormal_score(probability), label > 0)
    found = {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": float((predicted == label).mean()),
        "ece": calibration_error(probability, label, bins),
        "brier": float(((probability - true) ** 2).sum(1).mean() / 2),
        "cross_entropy": float(-np.log(probability[np.arange(len(label)), label].clip(1e-8)).mean()),
        "confusion": confusion.tolist(),
    }
    if classes > 2:
        each = [ranking(probability[:, k], label == k) for k in range(classes)]
        for name, values in zip(("auroc_macro", "auprc_macro"), zip(*each, strict=True), strict=True):
            seen = [value for value in values if value is not None]
            found[name] = float(np.mean(seen)) if seen else None
    return found


def abnormal_score(probability: Float[ndarray, "n k"]) -> Float[ndarray, " n"]:
    """Ranks as 1 - p_normal does, without the ties that 1 - p has among very confident predictions."""
    return probability[:, 1:].sum(1) - probability[:, 0]


def ranking(score: Float[ndarray, " n"], positive: ndarray) -> tuple[float | None, float | None]:
    """AUROC and average precision; None where only one side was seen."""
    if positive.all() or not positive.any():
        return None, None
    return float(roc_auc_score(positive, score)), float(average_precision_score(positive, score))
