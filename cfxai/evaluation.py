"""evaluate(run): every explainer of a run, judged on the held-out split by `judging`; table, panels, masks, JSON."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF, options
from cfxai.data.dataset import Data, Dataset
from cfxai.errors import ConfigError
from cfxai.judging import NORMAL, LesionFree, choose_threshold, judge, metric_factory, probabilities, spaced
from cfxai.masks.refine import Refine
from cfxai.masks.threshold import Threshold
from cfxai.metrics.classification import ClassifierQuality
from cfxai.nn.features import penultimate
from cfxai.nn.weights import digest
from cfxai.protocols import Attributor, Explainer, Result
from cfxai.report import classifier_line, tables, write_panels
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run, logging_to, shown
from cfxai.run.locate import locate
from cfxai.run.progress import Track, console

log = logging.getLogger("cfxai")


@dataclass(frozen=True)
class Settings:
    """How to judge: the `evaluation` section of a run's config, or what the command line says instead.

    Attributes:
        cf_threshold: of |x - x_cf| in [0, 1], or "auto" = chosen on validation for every explainer by itself.
        tau: least change of probability that counts as valid.
        postprocess: open, fill and drop small components of every mask.
        saliency_threshold: of min-max-normalised saliency; None = COIN's 0.975 beside a fixed `cf_threshold`, and each
            attributor's own best on validation beside "auto".
        skip_fid: leave FID and KID out.
        attributors: saliency methods to compare with, by name.
        panels: images to draw. max_images: judge at most so many of the split; None = all.
        threshold_images: validation images that a threshold is chosen on, at most.
        batch_size: of the forward passes.
    """

    cf_threshold: float | Literal["auto"] = "auto"
    tau: float = 0.8
    postprocess: bool = False
    saliency_threshold: float | None = None
    skip_fid: bool = False
    attributors: Sequence[str] = ()
    panels: int = 8
    max_images: int | None = None
    threshold_images: int = 100
    batch_size: int = 32

    COIN_CF = 0.25
    COIN_SALIENCY = 0.975

    @property
    def rule(self) -> str:
        return "auto" if self.cf_threshold == "auto" else "fixed"

    def fixed(self, counterfactual: bool) -> float:
        """The threshold that no data chose: the one asked for, else COIN's."""
        if counterfactual:
            return self.COIN_CF if self.cf_threshold == "auto" else float(self.cf_threshold)
        return self.COIN_SALIENCY if self.saliency_threshold is None else self.saliency_threshold

    def main(self, counterfactual: bool) -> Literal["auto", "fixed"]:
        """Which of the two thresholds an explainer is reported at first."""
        asked = self.cf_threshold != "auto" if counterfactual else self.saliency_threshold is not None
        return "fixed" if asked or self.rule == "fixed" else "auto"


def evaluate(
    path: Path,
    *,
    cf_threshold: float | str | None = None,
    tau: float | None = None,
    postprocess: bool | None = None,
    saliency_threshold: float | None = None,
    skip_fid: bool | None = None,
    attributors: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Judges a run (or one checkpoint of it) and writes `<run>/evaluation/`; None = as the run's own config says.

    Raises:
        ConfigError: not a run, or an unknown attributor. DataError: the data changed or cannot be read.
    """
    asked = dict(
        cf_threshold=cf_threshold, tau=tau, postprocess=postprocess, saliency_threshold=saliency_threshold,
        skip_fid=skip_fid, attributors=attributors,
    )  # fmt: skip
    directory, checkpoint = locate(path)
    run = Run(directory)
    cfg = load_config(run)
    settings = Settings(
        **{**OmegaConf.to_container(cfg.evaluation), **{k: v for k, v in asked.items() if v is not None}}
    )
    with logging_to(run.directory / "log.txt"):
        parts = load_parts(cfg, run)
        if cfg.method:
            tensors, state = load_checkpoint(checkpoint or best_checkpoint(run))
            restore(parts["method"], tensors, state)
        return evaluate_parts(parts, cfg, run, settings)


def load_config(run: Run) -> DictConfig:
    cfg = OmegaConf.load(run.directory / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return cfg


def best_checkpoint(run: Run) -> Path:
    for name in ("best.ckpt", "last.ckpt"):
        if (run.checkpoints / name).is_file():
            return run.checkpoints / name
    raise ConfigError(
        f"{shown(run.directory)}: has no checkpoint yet; train it with python tools/train.py -cp {shown(run.directory)}."
    )


def load_parts(cfg: DictConfig, run: Run) -> Parts:
    """The run's components, with the classifier that the run explains."""
    weights = run.weights / "classifier.safetensors"
    if not weights.is_file():
        raise ConfigError(
            f"{shown(run.directory)}: its classifier is not trained yet; continue it with python tools/train.py -cp {shown(run.directory)}."
        )
    cfg = cfg.copy()
    cfg.classifier.weights = str(weights)
    return Parts(cfg)


def evaluate_parts(parts: Parts, cfg: DictConfig, run: Run, settings: Settings) -> dict[str, Any]:
    """The evaluation proper, on built components."""
    device = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    data: Data = parts["data"]
    classifier: nn.Module = parts["classifier"].to(device).eval().requires_grad_(False)
    explainers = build_explainers(parts, cfg, settings, device)
    dataset, validation = data.split("test"), data.split("val")
    indices = spaced(np.arange(len(dataset)), settings.max_images or len(dataset))
    abnormal = [i for i in indices if int(dataset.labels[i]) != NORMAL]
    show = choose_shown(dataset, indices, settings.panels)
    sha = digest(classifier)[:8]

    log.info("judging %s on %s: %d images", ", ".join(explainers) or "the classifier", data.judged, len(indices))
    quality = classifier_quality(classifier, dataset, indices, device, settings.batch_size)
    metrics: dict[str, Any] = {
        "run": shown(run.directory),
        "split": data.judged,
        "images": len(indices),
        "abnormal_images": len(abnormal),
        "patients": len({dataset.groups[i] for i in indices}),
        "cf_threshold": None,
        "cf_threshold_rule": settings.rule,
        "threshold_rules": [],
        "tau": settings.tau,
        "postprocess": settings.postprocess,
        "classifier": {**quality, "sha256": digest(classifier)},
        "realism": None if settings.skip_fid else f"features of the classifier ({sha}) before its last layer, "
        "counterfactuals of abnormal images against real normal images",
        "explainers": {},
        "ceiling": None,
    }  # fmt: skip
    fresh_metrics = metric_factory(
        parts, cfg.metrics, skip_realism=settings.skip_fid,
        tau=settings.tau, features=penultimate(classifier), name=f"classifier:{sha}",
    )  # fmt: skip

    pictures: dict[str, dict[int, Result]] = {}
    masks = None
    subjects: dict[str, Explainer | Attributor] = dict(explainers)
    if explainers and dataset.healthy is not None:
        subjects["ceiling"] = LesionFree()
    for name, explainer in subjects.items():
        counterfactual = isinstance(explainer, Explainer)
        extractors, rule = build_extractors(explainer, settings, validation, device)
        chosen = indices if counterfactual else abnormal
        with Track(f"judging {name}", len(chosen)) as track:
            judged = judge(
                explainer, classifier, dataset, device,
                extractors=extractors, metrics=fresh_metrics, indices=chosen, batch_size=settings.batch_size,
                show=show, keep_masks=counterfactual and name != "ceiling",
                tick=lambda n, track=track: (track.advance(by=n), run.stop_if_requested()),
            )  # fmt: skip
        found = {**dict.fromkeys(APPLICABLE), **judged.metrics}
        if name == "ceiling":
            metrics["ceiling"] = found
            continue
        metrics["explainers"][name] = found
        metrics["threshold_rules"].append(f"{name}: {rule}")
        pictures[name] = judged.shown
        if counterfactual:
            metrics["cf_threshold"], masks = found["threshold"], judged.masks
    write_evaluation(run, metrics, pictures, data, dataset, masks)
    return metrics


APPLICABLE = (
    "iou", "iou_ci", "dice", "pixel_auprc", "pointing_game", "flip_rate", "counterfactual_validity", "l1",
    "normal_changed_area", "fid", "kid", "threshold", "seconds_per_image",
)  # fmt: skip
"""What every explainer has in metrics.json, null where it does not apply."""


def build_explainers(
    parts: Parts, cfg: DictConfig, settings: Settings, device: torch.device
) -> dict[str, Explainer | Attributor]:
    """The run's own method first, then the attributors asked for."""
    found: dict[str, Explainer | Attributor] = {}
    if cfg.method:
        method = parts["method"]
        method.modules.to(device)
        found[method.name] = method
    for name in settings.attributors:
        file = CONF / "attribution" / f"{name}.yaml"
        node = cfg.attribution[name] if name in cfg.attribution else OmegaConf.load(file) if file.is_file() else None
        if node is None:
            raise ConfigError(f"-at {name}: no such attributor; there are {', '.join(options('attribution'))}.")
        found[name] = parts.fresh(node, f"attribution.{name}")
    return found


def build_extractors(
    explainer: Explainer | Attributor, settings: Settings, validation: Dataset, device: torch.device
) -> tuple[dict[str, Threshold], str]:
    """Mask extractors at the fixed and the automatic threshold, the main one first, and the main one's rule in words."""
    counterfactual = isinstance(explainer, Explainer)
    normalise: Literal["none", "minmax"] = "none" if counterfactual else "minmax"
    refine = Refine() if settings.postprocess else None
    fixed = settings.fixed(counterfactual)
    auto, rule = choose_threshold(
        explainer, Threshold(fixed, normalise=normalise), validation, device,
        batch_size=settings.batch_size, most=settings.threshold_images,
    )  # fmt: skip
    both = {
        "fixed": Threshold(fixed, normalise=normalise, refine=refine),
        "auto": Threshold(min(auto, 1.0), normalise=normalise, refine=refine),
    }
    main = settings.main(counterfactual)
    ordered = {main: both[main], **both}
    return ordered, rule if main == "auto" else "fixed, not chosen from data"


def classifier_quality(
    classifier: nn.Module, dataset: Dataset, indices: Sequence[int], device: torch.device, batch_size: int
) -> dict[str, Any]:
    """AUROC, accuracy, calibration and confusion of the classifier alone."""
    metric = ClassifierQuality()
    for start in range(0, len(indices), batch_size):
        batch = dataset.batch(indices[start : start + batch_size])
        image = batch["image"].to(device)
        empty = torch.zeros(len(image), *image.shape[2:], device=device)
        metric.update(
            Result(
                image,
                batch["label"].to(device),
                empty,
                empty.bool(),
                tuple(batch["group"]),
                probabilities(classifier, image),
            )
        )
    return metric.compute()


def choose_shown(dataset: Dataset, indices: Sequence[int], count: int) -> list[int]:
    """Images to draw: abnormal ones of different patients, spread over the split, and one normal in four."""
    labels = np.asarray(dataset.labels)[list(indices)]
    chosen = []
    for wanted, n in (((labels != NORMAL), count - count // 4), ((labels == NORMAL), count // 4)):
        candidates = np.asarray(indices)[wanted]
        _, first = np.unique([dataset.groups[i] for i in candidates], return_index=True)
        middles = [
            int(np.median(np.flatnonzero([dataset.groups[i] == dataset.groups[candidates[f]] for i in candidates])))
            for f in first
        ]
        chosen += spaced(candidates[middles] if len(middles) >= n else candidates, n)
    return chosen


def write_evaluation(
    run: Run,
    metrics: dict[str, Any],
    pictures: Mapping[str, Mapping[int, Result]],
    data: Data,
    dataset: Dataset,
    masks: np.ndarray | None,
) -> None:
    """`evaluation/`: an earlier one is kept beside it as `evaluation-1`, `-2`, …"""
    if run.evaluation.exists():
        number = 1
        while (earlier := run.directory / f"evaluation-{number}").exists():
            number += 1
        run.evaluation.rename(earlier)
    run.evaluation.mkdir(parents=True)
    panels: list[Path] = []
    if pictures:
        main = next(iter(pictures))
        caption = (
            f"threshold {metrics['explainers'][main]['threshold']:.3f}; green: hit, orange: false alarm, yellow: missed"
        )
        panels = write_panels(run.evaluation / "panels", main, pictures, dataset.ids, caption)
    exported = data.export_masks("test", masks, run.evaluation / "masks") if masks is not None else []
    console.print(classifier_line(metrics))
    if metrics["explainers"]:
        for table in tables(metrics):
            console.print(table)
    run.write("evaluation/metrics.json", json.dumps(metrics, indent=1))
    log.info("metrics  %s", shown(run.evaluation / "metrics.json"))
    if panels:
        log.info("panels   %s", shown(panels[0]))
    if exported:
        log.info("masks    %s (%d files)", shown(run.evaluation / "masks"), len(exported))
