"""How a method does on the validation split while it learns."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.data.dataset import Dataset
from cfxai.judging import judge, metric_factory
from cfxai.masks.threshold import Threshold
from cfxai.methods.steganography import cycle_errors
from cfxai.protocols import NORMAL, ChecksItself, Explainer, Fitted, Result, goes_both_ways
from cfxai.report import case_row, case_title
from cfxai.run.directory import Run
from cfxai.selection import shown_cases, spaced
from cfxai.thresholds import choose_threshold
from cfxai.viz import panel

log = logging.getLogger("cfxai")

SAMPLES = 6
"""Images in each `samples/step_*.png`."""

FOLLOWS = 0.05
"""Share of the way to another image's code below which renderings under it are said to ignore it."""
HIDES = 3.0
"""Times the cycle error through 256 levels that a translation may have before it is said to hide its original."""


class Validation:
    """How a method does on the validation split: scalars, a picture of samples, and a warning when it has collapsed."""

    def __init__(self, parts: Parts, cfg: DictConfig, run: Run, classifier: nn.Module, device: torch.device) -> None:
        self.method, self.dataset = parts["method"], parts["data"].split("val")
        self.training = parts["data"].split("train")
        if isinstance(self.method, Fitted):
            self.method.require(self.training.known(range(len(self.training))))
        self.cfg, self.run, self.classifier, self.device = cfg, run, classifier, device
        self.metrics = metric_factory(parts, cfg.metrics, skip_realism=True, tau=cfg.evaluation.tau)
        self.show = shown_cases(self.dataset, range(len(self.dataset)), SAMPLES)
        self.of_each = (cfg.trainer.validation_images + 1) // 2
        abnormal = np.asarray(self.dataset.labels) != NORMAL
        halves = (spaced(np.flatnonzero(half), self.of_each) for half in (abnormal, ~abnormal))
        self.indices = sorted({*self.show, *chain(*halves)})

    def __call__(self, done: int) -> dict[str, float]:
        explainer = self.method
        if isinstance(explainer, Fitted):
            explainer.fit(on_device(self.training, self.cfg.evaluation.batch_size, self.device))
        if not isinstance(explainer, Explainer):
            return self.logged(done, self.own_checks(self.show))
        batch_size = self.cfg.evaluation.batch_size
        threshold, _ = choose_threshold(
            explainer, Threshold(threshold=0.0, normalise="none"), self.dataset, self.device,
            batch_size=batch_size, most=self.of_each,
        )  # fmt: skip
        judged = judge(
            explainer, self.classifier, self.dataset, self.device,
            extractors={"auto": Threshold(threshold=threshold, normalise="none")},
            metrics=self.metrics, indices=self.indices, batch_size=batch_size, show=self.show,
        )  # fmt: skip
        rows = [case_row(self.method.name, result, {}) for result in judged.shown.values()]
        if rows:
            titles = [case_title(result) for result in judged.shown.values()]
            panel(self.run.directory / "samples" / f"step_{done:06d}.png", rows, titles=titles, caption=f"step {done}")
        found = {name: v for name in SHOWN if (v := judged.metrics.get(name)) is not None}
        found["variety"] = variety(judged.shown.values())
        found |= self.own_checks(list(judged.shown))
        self.warn_if_collapsed(done, found)
        return {**self.logged(done, found), "score": score(found)}

    def logged(self, done: int, found: dict[str, float]) -> dict[str, float]:
        if found:
            told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            log.info("validation at step %d: %s", done, told)
        return found

    def own_checks(self, indices: list[int]) -> dict[str, float]:
        """What the method checks by itself; and of one that goes both ways, whether it hides the way back.

        These are cycle errors of images that go there and back, as they are, through 256 levels and through a blur.
        """
        if not indices:
            return {}
        batch = self.dataset.batch(indices)
        image, label = batch["image"].to(self.device), batch["label"].to(self.device)
        if isinstance(self.method, ChecksItself):
            return self.method.checks(image)
        if not goes_both_ways(self.method):
            return {}
        other = torch.where(label == NORMAL, NORMAL + 1, NORMAL)
        errors = cycle_errors(self.method, image, label, other)
        return {f"cycle_{name}": float(error.mean()) for name, error in errors.items()}

    def warn_if_collapsed(self, done: int, found: Mapping[str, float]) -> None:
        advice = f"compare samples/ and consider {getattr(self.method, 'if_collapsed', 'other weights of its losses')}"
        if found.get("l1", 1.0) < 1e-4:
            log.warning("warning: at step %d the generator changes nothing (L1 %.1e); %s", done, found["l1"], advice)
        elif found.get("flip_rate") == 0 and done >= self.cfg.trainer.steps / 4:
            log.warning("warning: at step %d no counterfactual flips the classifier; %s", done, advice)
        if found.get("cycle_rounded", 0.0) > HIDES * found.get("cycle_plain", 1.0):
            log.warning(
                "warning: at step %d the way back needs what 256 levels do not hold (cycle L1 %.2g, rounded %.2g): the "
                "original is hidden in the counterfactual; consider a smaller loss.cycle",
                done, found["cycle_plain"], found["cycle_rounded"],
            )  # fmt: skip
        if found.get("z_followed", 1.0) < FOLLOWS and done >= self.cfg.trainer.steps / 4:
            log.warning(
                "warning: at step %d images rendered under another image's z go only %.1f %% of the way there, encoded"
                " again: the network ignores z; consider more noise (a larger sampling.until) or"
                " more trainer.steps", done, 100 * max(found["z_followed"], 0.0),
            )  # fmt: skip
        if found.get("variety", 1.0) < 0.05:
            log.warning("warning: at step %d the counterfactuals of different images are nearly the same image", done)


def on_device(dataset: Dataset, batch_size: int, device: torch.device) -> Iterator[Mapping[str, Any]]:
    """The whole data set in its order."""
    for start in range(0, len(dataset), batch_size):
        batch = dataset.batch(range(start, min(start + batch_size, len(dataset))))
        yield {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def variety(shown: Iterable[Result]) -> float:
    """How much counterfactuals differ between images, relative to how much images do; near 0 = one output for all."""
    pairs = [(r.counterfactual.counterfactual, r.image) for r in shown if r.counterfactual is not None]
    if len(pairs) < 2:
        return 1.0
    counterfactuals, images = (torch.cat(side).std(0).mean() for side in zip(*pairs, strict=True))
    return float(counterfactuals / images.clamp_min(1e-6))


SHOWN = (
    "flip_rate", "flip_rate_to_abnormal", "iou", "threshold", "counterfactual_validity", "l1", "normal_changed_area",
    "pixel_auprc", "reencoded_flip_rate", "head_auroc",
)  # fmt: skip


def score(found: Mapping[str, float]) -> float:
    """What the best checkpoint is chosen by: flip rate times IoU, or times 1 - L1 where validation has no masks.

    The flip rate is the worse one of a method that goes both ways.
    """
    flips = min(found.get("flip_rate", 0.0), found.get("flip_rate_to_abnormal", 1.0))
    return flips * found.get("iou", 1 - found.get("l1", 1.0))
