"""train(cfg, directory): the whole job of a run. Classifier, method, evaluation; each part continues where it stopped."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save as to_bytes
from torch import nn

from cfxai.classifier import obtain_classifier
from cfxai.config.build import Parts, check_targets
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.evaluation import Settings, best_checkpoint, choose_shown, evaluate_parts
from cfxai.judging import choose_threshold, judge, metric_factory, spaced
from cfxai.loop import fit
from cfxai.masks.threshold import Threshold
from cfxai.protocols import Explainer, Result
from cfxai.report import case_row, case_title
from cfxai.run.checkpoint import load_checkpoint, restore, write_atomically
from cfxai.run.directory import Run, continue_command, environment, opened, shown
from cfxai.viz import panel

log = logging.getLogger("cfxai")


def train(cfg: DictConfig, directory: Path) -> float | None:
    """Runs what `cfg` describes in `directory`, or continues it there; returns the metric that a sweep maximises.

    Raises:
        CfxError: in one sentence, whatever a user can mend.
    """
    check_targets(cfg)
    with opened(directory) as run:
        if run.state == "complete":
            log.info("%s: this run is already complete; its results are in %s", shown(directory), shown(run.evaluation))
            print_next(run)
            return objective(json.loads((run.evaluation / "metrics.json").read_text()))
        begin(run, cfg)
        fabric = Fabric(accelerator=cfg.trainer.accelerator, devices=1, precision=cfg.trainer.precision)
        parts = Parts(cfg)
        data: Data = parts["data"]
        for note in data.notes:
            log.info("data: %s", note)
        write_atomically(directory / "manifest.csv", data.manifest_lock().to_csv(index=False).encode())
        classifier = fabric.to_device(obtain_classifier(parts, cfg, run, fabric))
        if cfg.method:
            train_method(parts, cfg, run, fabric, classifier)
        settings = Settings(**OmegaConf.to_container(cfg.evaluation))
        metrics = evaluate_parts(parts, cfg, run, settings)
        run.mark("complete")
        print_next(run)
        return objective(metrics)


def begin(run: Run, cfg: DictConfig) -> None:
    """Records what runs, on what."""
    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    run.write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    run.write("environment.json", json.dumps(environment(), indent=1))
    log.info(
        "run %s (stop it with Ctrl-C; continue it with: %s)", shown(run.directory), continue_command(run.directory)
    )
    run.mark("running")


def train_method(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric, classifier: nn.Module) -> None:
    """Trains the method against the frozen classifier and leaves it as its best checkpoint has it."""
    torch.manual_seed(cfg.seed)
    method, data = parts["method"], parts["data"]
    fabric.to_device(method.modules)
    train_split, validation = data.split("train"), data.split("val")
    show = choose_shown(validation, range(len(validation)), 6)
    watch = Validation(parts, cfg, run, classifier, validation, show, fabric.device)
    fit(
        method,
        Batches(train_split, cfg.trainer.batch_size, seed=cfg.seed, balanced=cfg.trainer.balanced),
        run,
        fabric,
        steps=cfg.trainer.steps,
        seed=cfg.seed,
        validate=watch,
        validate_every=cfg.trainer.validate_every,
        checkpoint_every=cfg.trainer.checkpoint_every,
        log_every=cfg.trainer.log_every,
        label=f"training {method.name}",
    )
    tensors, state = load_checkpoint(best_checkpoint(run))
    restore(method, tensors, state)
    for name, module in method.modules.items():
        tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        write_atomically(run.weights / f"{name}.safetensors", to_bytes(tensors, {"step": str(state["step"])}))


class Validation:
    """How a method does on the validation split: scalars, a picture of samples, and a warning when it has collapsed."""

    def __init__(
        self, parts: Parts, cfg: DictConfig, run: Run, classifier: nn.Module, dataset: Dataset, show: list[int],
        device: torch.device,
    ) -> None:  # fmt: skip
        self.parts, self.cfg, self.run, self.classifier = parts, cfg, run, classifier
        self.dataset, self.show, self.device = dataset, show, device
        self.metrics = metric_factory(parts, cfg.metrics, skip_realism=True, tau=cfg.evaluation.tau)
        labels = np.asarray(dataset.labels)
        most = cfg.trainer.validation_images
        both = spaced(np.flatnonzero(labels != 0), most // 2) + spaced(np.flatnonzero(labels == 0), most // 2)
        self.indices = sorted({*both, *show})

    def __call__(self, done: int) -> dict[str, float]:
        explainer = self.parts["method"]
        if not isinstance(explainer, Explainer):
            return {}
        batch_size = self.cfg.evaluation.batch_size
        threshold, _ = choose_threshold(
            explainer, Threshold(0.0, normalise="none"), self.dataset, self.device, batch_size=batch_size,
            most=self.cfg.trainer.validation_images // 2,
        )  # fmt: skip
        judged = judge(
            explainer, self.classifier, self.dataset, self.device,
            extractors={"auto": Threshold(min(threshold, 1.0), normalise="none")},
            metrics=self.metrics, indices=self.indices, batch_size=batch_size, show=self.show,
        )  # fmt: skip
        rows = [case_row(explainer.name, result, {}) for result in judged.shown.values()]
        if rows:
            titles = [case_title(result) for result in judged.shown.values()]
            panel(self.run.directory / "samples" / f"step_{done:06d}.png", rows, titles=titles, caption=f"step {done}")
        found = {name: v for name in SHOWN if (v := judged.metrics.get(name)) is not None}
        found["variety"] = variety(judged.shown.values())
        self.warn_if_collapsed(done, found)
        log.info("validation at step %d: %s", done, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        return {**found, "score": score(found)}

    def warn_if_collapsed(self, done: int, found: Mapping[str, float]) -> None:
        advice = "compare samples/ and consider a larger loss.kl or a smaller loss.rec"
        if found.get("l1", 1.0) < 1e-4:
            log.warning("warning: at step %d the generator changes nothing (L1 %.1e); %s", done, found["l1"], advice)
        elif found.get("flip_rate") == 0 and done >= self.cfg.trainer.steps / 4:
            log.warning("warning: at step %d no counterfactual flips the classifier; %s", done, advice)
        if found.get("variety", 1.0) < 0.05:
            log.warning("warning: at step %d the counterfactuals of different images are nearly the same image", done)


def variety(shown: Iterable[Result]) -> float:
    """How much counterfactuals differ between images, relative to how much the images do; near 0 = one output for all."""
    pairs = [(r.counterfactual.counterfactual, r.image) for r in shown if r.counterfactual is not None]
    if len(pairs) < 2:
        return 1.0
    counterfactuals, images = (torch.cat(side).std(0).mean() for side in zip(*pairs, strict=True))
    return float(counterfactuals / images.clamp_min(1e-6))


SHOWN = (
    "flip_rate", "iou", "threshold", "counterfactual_validity", "l1", "normal_changed_area", "pixel_auprc",
)  # fmt: skip


def score(found: Mapping[str, float]) -> float:
    """What the best checkpoint is chosen by: flip rate times IoU, or times 1 - L1 where validation has no masks."""
    return found.get("flip_rate", 0.0) * found.get("iou", 1 - found.get("l1", 1.0))


def objective(metrics: Mapping[str, Any]) -> float | None:
    """The metric that a sweep maximises: the explainer's IoU, its flip rate without masks, or the classifier's AUROC."""
    for found in metrics["explainers"].values():
        return found["iou"] if found["iou"] is not None else found["flip_rate"]
    return metrics["classifier"]["auroc"]


def print_next(run: Run) -> None:
    log.info("run directory  %s", shown(run.directory))
    log.info("next           python tools/eval_counterfactual.py -cp %s -cft 0.25", shown(run.directory))
