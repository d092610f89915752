"""Training of the classifier: its settings checked, its best weights on validation kept, its temperature fitted."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from omegaconf import DictConfig
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cfxai.config.build import Parts
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.errors import ConfigError
from cfxai.judging import classifier_quality
from cfxai.loop import fit
from cfxai.methods.classification import Classification
from cfxai.metrics.calibration import BOUNDS, fit_temperature
from cfxai.nn.classifiers import ImageClassifier
from cfxai.nn.features import last_layer
from cfxai.nn.memory_format import convolve_fast
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run
from cfxai.selection import spaced

log = logging.getLogger("cfxai")

AT_ONCE = 64
"""Images of a forward pass on the validation split."""


def train_classifier(
    classifier: nn.Module, data: Data, cfg: DictConfig, run: Run, fabric: Fabric
) -> tuple[nn.Module, dict[str, Any]]:
    """Trains from the last checkpoint in `run`: the network that was best on validation, and facts about it.

    Raises:
        ConfigError: settings of `classifier_training` that contradict each other, the network or the data.
    """
    settings = cfg.classifier_training
    augment = Parts(cfg)["augment"] if cfg.augment else None
    train, validation = data.split("train"), data.split("val")
    check_settings(settings, classifier)
    if settings.freeze and not cfg.classifier.get("pretrained"):
        log.warning(
            "warning: the frozen backbone has random weights, unless it loads its own; set classifier.pretrained"
        )
    classes = cfg.classifier.get("classes") or max(2, int(train.labels.max()) + 1)
    fabric.to_device(classifier)
    method = Classification(
        classifier,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        smoothing=settings.smoothing,
        class_weights=weights_of_classes(settings.class_weights, train.labels, classes),
        accumulate=settings.accumulate,
        head=last_layer(classifier, train.batch([0])["image"].to(fabric.device)) if settings.freeze else None,
        unfreeze_at=settings.unfreeze_at,
    )
    convolve_fast(fabric.to_device(method.modules))
    log.info(
        "training the classifier: %d images, %.0f %% abnormal",
        len(train),
        100 * float((np.asarray(train.labels) != 0).mean()),
    )
    batch_size = settings.batch_size * settings.accumulate

    def validate(done: int) -> dict[str, float]:
        found = validate_classifier(method.average.module, validation, fabric.device)
        method.rate.observe(found["cross_entropy"])
        return found

    fit(
        method,
        Batches(train, batch_size, seed=cfg.seed, balanced=settings.balanced, augment=augment),
        run,
        fabric,
        steps=settings.steps,
        seed=cfg.seed,
        validate=validate,
        validate_every=settings.validate_every,
        checkpoint_every=cfg.trainer.checkpoint_every,
        log_every=cfg.trainer.log_every,
        accumulate=settings.accumulate,
        label="training classifier",
    )
    tensors, state = load_checkpoint(run.checkpoints / "best.ckpt")
    restore(method, tensors, state)
    trained = method.average.module
    found = validate_classifier(trained, validation, fabric.device)
    log.info("classifier on validation: AUROC %(auroc).4f, accuracy %(accuracy).4f, ECE %(ece).4f", found)
    facts: dict[str, Any] = {"step": state["step"], "validation": found, "data": data.fingerprint}
    if settings.calibrate:
        assert isinstance(trained, ImageClassifier)
        facts["temperature"] = calibrate(trained, validation, fabric.device)
    return trained, facts


def check_settings(settings: DictConfig, classifier: nn.Module) -> None:
    """Raises ConfigError for settings that contradict each other or the network."""
    if settings.class_weights == "balanced" and settings.balanced:
        raise ConfigError(
            "classifier_training.class_weights: balanced batches are balanced already; set "
            "classifier_training.balanced=false, or class_weights=null."
        )
    if settings.unfreeze_at is not None and settings.freeze is None:
        raise ConfigError(
            "classifier_training.unfreeze_at: nothing is frozen; set classifier_training.freeze=backbone."
        )
    if settings.calibrate and not isinstance(classifier, ImageClassifier):
        raise ConfigError(
            "classifier_training.calibrate: this classifier has no temperature; use classifier=custom for your own "
            "network, or set calibrate=false."
        )


def weights_of_classes(
    asked: str | Sequence[float] | None, labels: Int[np.ndarray, " n"], classes: int
) -> list[float] | None:
    """[k]: as asked for, or if "balanced" so that every class counts the same and an image 1 on average.

    Raises:
        ConfigError: not one number for each class.
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        seen = np.unique(labels)
        found = dict(zip(seen, compute_class_weight("balanced", classes=seen, y=labels), strict=True))
        return [float(found.get(name, 0.0)) for name in range(classes)]
    if len(asked) != classes:
        raise ConfigError(
            f"classifier_training.class_weights: has {len(asked)} numbers, but there are {classes} classes."
        )
    return [float(weight) for weight in asked]


@torch.no_grad()
def calibrate(classifier: ImageClassifier, dataset: Dataset, device: torch.device) -> float:
    """Sets and returns the temperature that suits a data set best. Call it on the validation split only."""
    before, logits = validate_classifier(classifier, dataset, device), []
    for start in range(0, len(dataset), AT_ONCE):
        image = dataset.batch(range(start, min(start + AT_ONCE, len(dataset))))["image"]
        logits.append(classifier(image.to(device)).double().cpu().numpy())
    temperature = fit_temperature(np.concatenate(logits), np.asarray(dataset.labels))
    classifier.temperature = torch.tensor(temperature, device=device)
    after = validate_classifier(classifier, dataset, device)
    log.info("classifier: temperature %.3f, ECE on validation %.4f -> %.4f", temperature, before["ece"], after["ece"])
    if temperature in BOUNDS:
        log.warning(
            "warning: the temperature is held at its bound: the %d validation images are separated too cleanly, or not "
            "at all, to say how sure the classifier should be",
            len(dataset),
        )
    return temperature


def validate_classifier(classifier: nn.Module, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """AUROC, accuracy, ECE and cross-entropy on at most 2000 images; the score is minus the cross-entropy."""
    indices = spaced(np.arange(len(dataset)), 2000)
    found = classifier_quality(classifier.eval(), dataset, indices, device, batch_size=AT_ONCE)
    scalars = {name: value for name, value in found.items() if isinstance(value, float)}
    return {"auroc": float("nan"), **scalars, "score": -scalars["cross_entropy"]}
