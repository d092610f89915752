"""What an evaluation found, and its files: tables, panels, masks, sweeps and metrics.json, all or nothing."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from cfxai.classifier_figure import write_classifier_figure
from cfxai.classifier_judging import Predictions
from cfxai.data.dataset import Data
from cfxai.protocols import Result
from cfxai.report import classifier_line, tables, write_cases, write_made_abnormal, write_panels, write_sanity
from cfxai.run.directory import Run, shown
from cfxai.run.progress import console
from cfxai.sanity_checks import Checked
from cfxai.sweeps import Swept, write_sweep

log = logging.getLogger("cfxai")


@dataclass
class Findings:
    """All that an evaluation found.

    Attributes:
        metrics: as in metrics.json.
        predictions: the classifier's, on the judged split.
        pictures: of each explainer, by item of the split, what panels show.
        made_abnormal: by item, normal images that the run's method made abnormal.
        cases: of each explainer, a row for every image.
        masks: of the run's method, on the judged split; None = it has none.
        swept: over the levels of severity; None = not asked for, or there is no such scale.
        checked: of each attributor, what became of its maps under randomisation.
    """

    metrics: dict[str, Any]
    predictions: Predictions
    pictures: dict[str, dict[int, Result]] = field(default_factory=dict)
    made_abnormal: dict[int, Result] = field(default_factory=dict)
    cases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    masks: np.ndarray | None = None
    swept: Swept | None = None
    checked: Mapping[str, Checked] = field(default_factory=dict)


def write_evaluation(run: Run, data: Data, found: Findings) -> None:
    """Writes `evaluation/` and prints the tables; an earlier one is kept beside it as `evaluation-1`, `-2`, …"""
    scratch = run.directory / ".evaluation"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    metrics, dataset = found.metrics, data.split("test")
    write_classifier_figure(scratch / "panels/classifier.png", found.predictions, metrics["classifier"], data.classes)
    if found.pictures:
        main = next(iter(found.pictures))
        threshold = metrics["explainers"][main]["threshold"]
        caption = f"threshold {threshold:.3f}; green: hit, orange: false alarm, yellow: missed"
        write_panels(scratch / "panels", main, found.pictures, dataset.ids, caption)
        write_made_abnormal(scratch / "panels/made_abnormal.png", main, found.made_abnormal)
    if found.checked:
        write_sanity(scratch / "panels/sanity.png", {name: one.pictures for name, one in found.checked.items()})
    if found.swept is not None:
        write_sweep(scratch / "sweep", found.swept)
    if found.masks is not None:
        data.export_masks("test", found.masks, scratch / "masks")
    if any(found.cases.values()):
        write_cases(scratch / "cases.csv", found.cases)
    (scratch / "metrics.json").write_text(json.dumps(metrics, indent=1))
    if run.evaluation.exists():
        number = next(n for n in count(1) if not (run.directory / f"evaluation-{n}").exists())
        run.evaluation.rename(run.directory / f"evaluation-{number}")
    scratch.rename(run.evaluation)
    print_evaluation(run, found)


def print_evaluation(run: Run, found: Findings) -> None:
    """The tables, and where the files are."""
    console.print(classifier_line(found.metrics))
    log.info("picture  %s", shown(run.evaluation / "panels/classifier.png"))
    for name, why in found.metrics["refused"].items():
        log.warning("%s: no map. %s", name, why)
    for table in tables(found.metrics) if found.metrics["explainers"] else []:
        console.print(table)
    summary = found.swept.summary() if found.swept else ""
    for label, file, more in (
        ("metrics", "metrics.json", ""),
        ("panels", "panels/overview.png", ""),
        ("sanity", "panels/sanity.png", ""),
        ("sweep", "sweep", f"  {summary}"),
        ("cases", "cases.csv", ""),
        ("masks", "masks", ""),
    ):
        if (path := run.evaluation / file).exists():
            log.info("%-8s %s%s", label, shown(path), more)
