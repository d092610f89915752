"""The classifier at a glance: ROC, precision against recall, reliability and confusion at the operating point."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from cfxai.classifier_judging import Predictions
from cfxai.metrics.calibration import reliability
from cfxai.metrics.classification import abnormal_score
from cfxai.run.checkpoint import write_atomically
from cfxai.viz import FALSE, HIT

GREY = "0.6"


def write_classifier_figure(path: Path, found: Predictions, quality: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Writes a PNG of what `judge_classifier` found; curves are left out where the split has one side only."""
    figure = Figure(figsize=(13, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    roc, precision, calibrated, confusion = figure.subplots(1, 4)
    _draw_roc(roc, found, quality)
    _draw_precision(precision, found, quality)
    _draw_reliability(calibrated, found, quality)
    _draw_confusion(confusion, quality, classes)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def _draw_roc(ax: Axes, found: Predictions, quality: Mapping[str, Any]) -> None:
    _axes(ax, "ROC", "1 - specificity", "sensitivity")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    if quality["auroc"] is None:
        return
    ax.set_title(f"ROC: AUROC {quality['auroc']:.3f}", fontsize=9)
    false, hit, _ = roc_curve(found.abnormal, abnormal_score(found.probability))
    ax.plot(false, hit, color=HIT)
    point = quality["operating_point"]
    ax.plot(1 - point["specificity"], point["sensitivity"], "o", color=FALSE, label=f"p ≥ {point['threshold']:.3f}")
    ax.legend(loc="lower right", frameon=False, fontsize=8)


def _draw_precision(ax: Axes, found: Predictions, quality: Mapping[str, Any]) -> None:
    _axes(ax, "precision and recall", "recall (sensitivity)", "precision")
    ax.axhline(found.abnormal.mean(), color=GREY, linewidth=0.8)
    if quality["auprc"] is None:
        return
    ax.set_title(f"precision and recall: AUPRC {quality['auprc']:.3f}", fontsize=9)
    precision, recall, _ = precision_recall_curve(found.abnormal, abnormal_score(found.probability))
    ax.step(recall, precision, where="post", color=HIT)
    (_, false), (_, hits) = quality["operating_point"]["confusion"]
    if hits + false:
        ax.plot(quality["operating_point"]["sensitivity"], hits / (hits + false), "o", color=FALSE)


def _draw_reliability(ax: Axes, found: Predictions, quality: Mapping[str, Any]) -> None:
    _axes(ax, f"reliability: ECE {quality['ece']:.3f}", "probability of the predicted class", "share of hits")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    curves = {"as it is": (found.probability, HIT)}
    if (before := found.uncalibrated) is not None:
        label = f"before T = {quality['temperature']:.2f}: ECE {quality['ece_uncalibrated']:.3f}"
        curves = {"calibrated": (found.probability, HIT), label: (before, FALSE)}
    for label, (probability, colour) in curves.items():
        images, confidence, hits = reliability(probability, found.label)
        seen = images > 0
        ax.plot(confidence[seen] / images[seen], hits[seen] / images[seen], color=colour, linewidth=0.8, label=label)
        sizes = 120 * images[seen] / images.sum() + 6  # the area says how many images
        ax.scatter(confidence[seen] / images[seen], hits[seen] / images[seen], s=sizes, color=colour, alpha=0.7)
    ax.legend(loc="upper left", frameon=False, fontsize=8)


def _draw_confusion(ax: Axes, quality: Mapping[str, Any], classes: Sequence[str]) -> None:
    """At the operating point; of more than two classes, by the most probable one."""
    binary = len(quality["confusion"]) == 2
    counts = np.array(quality["operating_point"]["confusion"] if binary else quality["confusion"])
    names = [classes[k] if k < len(classes) else str(k) for k in range(len(counts))]
    ax.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Greys", vmin=0, vmax=1.4)
    for (true, called), count in np.ndenumerate(counts):
        ax.text(called, true, str(count), ha="center", va="center")
    ax.set_xticks(range(len(counts)), names, fontsize=8)
    ax.set_yticks(range(len(counts)), names, fontsize=8, rotation=90, va="center")
    ax.set_title(f"p ≥ {quality['operating_point']['threshold']:.3f}" if binary else "most probable class", fontsize=9)
    ax.set_xlabel("called", fontsize=8)
    ax.set_ylabel("is", fontsize=8)


def _axes(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=8)
