"""train(cfg, directory): the whole job of a run: classifier, method, evaluation; each continues where it stopped."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save as to_bytes
from torch import nn

from cfxai.classifier import obtain_classifier, obtain_oracle, oracle_seed
from cfxai.config.build import Parts, check_targets
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError
from cfxai.evaluation import best_checkpoint, evaluate_parts, load_config, settings_of
from cfxai.latent_export import write_latents
from cfxai.loop import fit
from cfxai.nn.heap import keep_freed_memory
from cfxai.nn.memory_format import convolve_fast
from cfxai.protocols import Encodes
from cfxai.ruler import needs_ruler, obtain_ruler
from cfxai.run.checkpoint import load_checkpoint, restore, write_atomically
from cfxai.run.directory import Run, continue_command, environment, opened, shown
from cfxai.validation import Validation

log = logging.getLogger("cfxai")

AT_ONCE = 256
"""Images of a forward pass through the classifier alone."""


def train(cfg: DictConfig, directory: Path) -> float | None:
    """Runs what `cfg` describes in `directory`, or continues it there; returns the metric that a sweep maximises.

    Raises:
        CfxError: in one sentence, whatever a user can mend.
    """
    check_targets(cfg)
    cfg = anchored(cfg)
    with opened(directory) as run:
        results = run.evaluation / "metrics.json"
        if run.state == "complete" and results.is_file() and load_config(run) == cfg:
            log.info("%s: this run is already complete; its results are in %s", shown(directory), shown(run.evaluation))
            print_next(run)
            return objective(json.loads(results.read_text()))
        begin(run, cfg)
        fabric = fabric_of(cfg)
        parts = build(cfg)
        data: Data = parts["data"]
        for note in data.notes:
            log.info("data: %s", note)
        check_channels(cfg, data)
        ruled = needs_ruler(parts, cfg)
        write_atomically(directory / "manifest.csv", data.manifest_lock().to_csv(index=False).encode())
        classifier = obtain_classifier(parts, cfg, run, fabric)
        if cfg.method:
            if cfg.get("oracle"):
                obtain_oracle(parts, cfg, run, fabric)
            if ruled:
                obtain_ruler(parts, cfg, run, fabric)
            train_method(parts, cfg, run, fabric, classifier)
        metrics = evaluate_parts(parts, cfg, run, settings_of(cfg))
        run.mark("complete")
        print_next(run)
        return objective(metrics)


def anchored(cfg: DictConfig) -> DictConfig:
    """The config with absolute paths, so that the run can be continued and judged from any directory."""
    cfg = cfg.copy()
    files = ("data.manifest", "data.intensity.file", "classifier.weights", "classifier.pretrained", "oracle.weights")
    for key in ("cache", *files, "compression.weights"):
        if isinstance(path := OmegaConf.select(cfg, key), str):
            OmegaConf.update(cfg, key, str(Path(path).absolute()))
    return cfg


def fabric_of(cfg: DictConfig) -> Fabric:
    """The device and precision to train with."""
    fabric = Fabric(accelerator=cfg.trainer.accelerator, devices=1)
    if cfg.trainer.precision == "16-mixed" and fabric.device.type == "cpu":  # Fabric would quietly take bf16
        raise ConfigError("trainer.precision: 16-mixed needs a GPU; on a CPU use 32-true or bf16-mixed.")
    return Fabric(accelerator=cfg.trainer.accelerator, devices=1, precision=cfg.trainer.precision)


def build(cfg: DictConfig) -> Parts:
    """Every component of the run, built before any work is done, so that a mistake in the config costs no time."""
    parts = Parts(cfg)
    for name in ("classifier", "method", "oracle", "ruler"):
        # Components are initialised where they are built.
        torch.manual_seed(oracle_seed(cfg) if name == "oracle" else cfg.seed)
        if cfg.get(name):
            parts[name]
    return parts


def check_channels(cfg: DictConfig, data: Data) -> None:
    """Raises ConfigError if a network is made for other images than these."""
    inner = "compression" if cfg.get("compression") else "autoencoder"  # a compression stands before the autoencoder
    for name in ("classifier", "oracle", "generator", "discriminator", inner):
        channels = OmegaConf.select(cfg, f"{name}.channels")
        if channels not in (None, data.channels):
            there = data.channels
            raise ConfigError(f"{name}.channels: is {channels}, but images have {there}; set {name}.channels={there}.")


def begin(run: Run, cfg: DictConfig) -> None:
    """Records what runs, on what."""
    keep_freed_memory()
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
    method, data = parts["method"], parts["data"]
    convolve_fast(fabric.to_device(method.modules))
    batches = Batches(
        data.split("train"),
        cfg.trainer.batch_size,
        seed=cfg.seed,
        balanced=cfg.trainer.balanced,
        strata=conditions(method, data, fabric.device) if cfg.trainer.balanced_by == "condition" else None,
        augment=parts["augment"] if cfg.trainer.augment and cfg.augment else None,
    )
    fit(
        method,
        batches,
        run,
        fabric,
        steps=cfg.trainer.steps,
        seed=cfg.seed,
        validate=Validation(parts, cfg, run, classifier, fabric.device),
        validate_every=cfg.trainer.validate_every,
        checkpoint_every=cfg.trainer.checkpoint_every,
        log_every=cfg.trainer.log_every,
        label=f"training {method.name}",
    )
    tensors, state = load_checkpoint(best_checkpoint(run))
    restore(method, tensors, state)
    if isinstance(method, Encodes):
        write_latents(method, data, run.directory / "latents", fabric.device, cfg.evaluation.batch_size)
    for name, module in method.modules.items():
        if next(module.parameters(), None) is None:  # a pool of earlier images, a schedule: the checkpoint has them
            continue
        tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        write_atomically(run.weights / f"{name}.safetensors", to_bytes(tensors, {"step": str(state["step"])}))


def conditions(method: Any, data: Data, device: torch.device) -> np.ndarray:
    """The method's condition of every training image, e.g. the bin of the classifier's probability."""
    if not hasattr(method, "condition_of"):
        raise ConfigError(f"trainer.balanced_by: {method.name} knows no conditions; set trainer.balanced_by=label.")
    images = torch.from_numpy(data.split("train").images).split(AT_ONCE)
    return torch.cat([method.condition_of(part.to(device)).cpu() for part in images]).numpy()


def objective(metrics: Mapping[str, Any]) -> float | None:
    """What a sweep maximises: the explainer's IoU, its flip rate where no masks exist, or the classifier's AUROC."""
    for found in metrics["explainers"].values():
        return found["iou"] if found["iou"] is not None else found["flip_rate"]
    return metrics["classifier"]["auroc"]


def print_next(run: Run) -> None:
    log.info("run directory  %s", shown(run.directory))
    log.info("next           python tools/eval_counterfactual.py -cp %s -cft 0.25", shown(run.directory))
