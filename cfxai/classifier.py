"""The classifier that a run explains: given, taken from the cache, or trained first.

The cache holds one artefact per (data, classifier config, training config, seed), so that a sweep over anything else
trains it once.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save as to_bytes
from torch import nn

from cfxai.config.build import Parts
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.judging import classifier_quality
from cfxai.loop import fit
from cfxai.methods.classification import Classification
from cfxai.nn.memory_format import convolve_fast
from cfxai.nn.weights import digest, load_weights
from cfxai.run.checkpoint import load_checkpoint, restore, write_atomically
from cfxai.run.directory import Run, shown
from cfxai.selection import spaced

log = logging.getLogger("cfxai")

RECIPE = 2
"""Raised whenever the code changes what the same configuration trains, so that older artefacts are not taken for it."""


def obtain_classifier(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric) -> nn.Module:
    """The frozen classifier, also written to `<run>/weights/classifier.safetensors`."""
    classifier: nn.Module = parts["classifier"]
    artefact = run.weights / "classifier.safetensors"
    if not artefact.is_file():
        given = cfg.classifier.get("weights")
        if given is not None:
            log.info("classifier: %s", given)
            write_classifier(artefact, classifier, cfg, {"from": str(given)})
        else:
            cached = Path(cfg.cache) / "classifiers" / f"{classifier_key(cfg, parts['data'])}.safetensors"
            cached.parent.mkdir(parents=True, exist_ok=True)
            with waiting_for(FileLock(cached.with_suffix(".lock")), run):
                if cached.is_file():
                    log.info("classifier: taken from the cache, %s", shown(cached))
                else:
                    train_classifier(classifier, parts["data"], cfg, run.part("classifier"), fabric, cached)
            artefact.parent.mkdir(parents=True, exist_ok=True)
            copy_atomically(cached, artefact)
    load_weights(classifier, artefact)
    log.info("classifier: sha256 %s", digest(classifier)[:16])
    return convolve_fast(fabric.to_device(classifier)).eval().requires_grad_(False)


def classifier_key(cfg: DictConfig, data: Data) -> str:
    """sha256 over all that decides the trained weights."""
    sections = {
        name: OmegaConf.to_container(cfg[name])
        for name in ("classifier", "classifier_training", "augment")
        if cfg[name]
    }
    described = {"recipe": RECIPE, "data": data.fingerprint, "seed": cfg.seed, **sections}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def train_classifier(
    classifier: nn.Module, data: Data, cfg: DictConfig, run: Run, fabric: Fabric, artefact: Path
) -> None:
    """Trains from the last checkpoint in `run`, takes the best on validation, and writes the artefact."""
    settings = cfg.classifier_training
    method = Classification(
        classifier,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        smoothing=settings.smoothing,
    )
    convolve_fast(fabric.to_device(method.modules))
    augment = Parts(cfg)["augment"] if cfg.augment else None
    train, validation = data.split("train"), data.split("val")
    log.info(
        "training the classifier: %d images, %.0f %% abnormal",
        len(train),
        100 * float((np.asarray(train.labels) != 0).mean()),
    )
    fit(
        method,
        Batches(train, settings.batch_size, seed=cfg.seed, balanced=settings.balanced, augment=augment),
        run,
        fabric,
        steps=settings.steps,
        seed=cfg.seed,
        validate=lambda done: validate_classifier(method.average.module, validation, fabric.device),
        validate_every=settings.validate_every,
        checkpoint_every=cfg.trainer.checkpoint_every,
        log_every=cfg.trainer.log_every,
        label="training classifier",
    )
    tensors, state = load_checkpoint(run.checkpoints / "best.ckpt")
    restore(method, tensors, state)
    found = validate_classifier(method.average.module, validation, fabric.device)
    log.info("classifier on validation: AUROC %(auroc).4f, accuracy %(accuracy).4f, ECE %(ece).4f", found)
    write_classifier(
        artefact, method.average.module, cfg, {"step": state["step"], "validation": found, "data": data.fingerprint}
    )


def validate_classifier(classifier: nn.Module, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """AUROC, accuracy, ECE and cross-entropy on at most 2000 images; the score is minus the cross-entropy."""
    indices = spaced(np.arange(len(dataset)), 2000)
    found = classifier_quality(classifier.eval(), dataset, indices, device, batch_size=64)
    scalars = {name: value for name, value in found.items() if isinstance(value, float)}
    return {"auroc": float("nan"), **scalars, "score": -scalars["cross_entropy"]}


def write_classifier(path: Path, classifier: nn.Module, cfg: DictConfig, facts: dict[str, Any]) -> None:
    """Weights with preprocessing, and in the header how to build the network and where it comes from."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    about = {"classifier": OmegaConf.to_container(cfg.classifier), "sha256": digest(classifier), **facts}
    write_atomically(path, to_bytes(tensors, {"about": json.dumps(about)}))


@contextmanager
def waiting_for(lock: FileLock, run: Run) -> Iterator[None]:
    """Holds the lock as soon as no other process does.

    Raises:
        Preempted: the run was asked to stop while it waited.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("classifier: another run is training the same one; waiting for it")
        with suppress(Timeout):
            lock.acquire(cancel_check=lambda: run.stop_requested() is not None)
        run.stop_if_requested()
    try:
        yield
    finally:
        lock.release()


def copy_atomically(source: Path, target: Path) -> None:
    write_atomically(target, source.read_bytes())
    shutil.copystat(source, target)
