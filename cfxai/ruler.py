"""The ruler with which sweeps measure lesions: refused where it cannot learn, taken from the cache, or trained.

It learns the lesion masks of the training split alone and never sees a rendered image, so that no explainer can please
it. The cache holds one artefact per (data, settings, augmentation, precision, seed).
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.artefacts import trained_once
from cfxai.config.build import Parts
from cfxai.data.batches import Batches
from cfxai.data.dataset import Data, Dataset
from cfxai.errors import ConfigError, DataError
from cfxai.loop import fit
from cfxai.methods.segmentation import Segmentation
from cfxai.protocols import NORMAL, Graded
from cfxai.ruler_judging import judge_ruler
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run
from cfxai.selection import spaced

log = logging.getLogger("cfxai")

RECIPE = 1
"""Raised whenever the code changes what the same configuration trains, so that older artefacts are not taken for it."""


def needs_ruler(parts: Parts, cfg: DictConfig) -> bool:
    """Whether the run is to have a ruler. One that nothing would be measured with is named in a line, and not trained.

    Raises:
        DataError: there are no lesion masks to learn from.
        ConfigError: a setting out of its range, or a network that does not make one value per pixel of these images.
    """
    if not cfg.get("ruler"):
        return False
    if not (cfg.method and isinstance(parts["method"], Graded) and cfg.evaluation.sweep_images):
        log.warning(
            "ruler: not trained, as this run sweeps over no severity; "
            "it measures methods that have such a scale, as method=latent_shift has."
        )
        return False
    check_settings(cfg)
    data: Data = parts["data"]
    for name in ("train", "val"):
        if not has_lesions(data.split(name)):
            raise DataError(
                f"ruler: the abnormal images of split {name} have no lesion masks to learn from; "
                "give the manifest a column mask, or set ruler=none."
            )
    check_network(parts["ruler"]["network"], data.split("train"))
    return True


def obtain_ruler(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric) -> None:
    """The trained ruler, written to `<run>/weights/ruler.safetensors`."""
    artefact = run.weights / "ruler.safetensors"
    if not artefact.is_file():
        cached = Path(cfg.cache) / "rulers" / f"{ruler_key(cfg, parts['data'])}.safetensors"
        trained_once("ruler", lambda: train_ruler(parts, cfg, run.part("ruler"), fabric), cached, artefact, run)


def train_ruler(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric) -> tuple[nn.Module, dict[str, Any]]:
    """Trains from the last checkpoint in `run`: the network that was best on validation, and facts about it."""
    settings, data = cfg.ruler, parts["data"]
    validation = data.split("val")
    judged = spaced(np.flatnonzero(np.asarray(validation.labels) != NORMAL), 2000)
    method = Segmentation(parts["ruler"]["network"], steps=settings.steps, learning_rate=settings.learning_rate)
    fabric.to_device(method.modules)
    augment = parts["augment"] if cfg.augment else None  # it moves masks along with their images

    def validate(done: int) -> dict[str, float]:
        network = method.average.module
        found = judge_ruler(network, validation, judged, fabric.device, batch_size=settings.batch_size)
        dice = found["ruler_dice"] or 0.0
        return {"dice": dice, "score": dice}

    train = data.split("train")
    abnormal = (np.asarray(train.labels) != NORMAL).astype(np.int64)
    fit(
        method,
        Batches(train, settings.batch_size, seed=cfg.seed, strata=abnormal, augment=augment),
        run,
        fabric,
        steps=settings.steps,
        seed=cfg.seed,
        validate=validate,
        validate_every=settings.validate_every,
        checkpoint_every=cfg.trainer.checkpoint_every,
        log_every=cfg.trainer.log_every,
        label="training the ruler",
    )
    tensors, state = load_checkpoint(run.checkpoints / "best.ckpt")
    restore(method, tensors, state)
    log.info("ruler on validation: Dice %.3f of %d abnormal images", state["best"], len(judged))
    about = {"ruler": OmegaConf.to_container(settings), "step": state["step"], "data": data.fingerprint}
    return method.average.module, {**about, "validation": {"dice": state["best"]}}


def ruler_key(cfg: DictConfig, data: Data) -> str:
    """sha256 over all that decides the trained weights."""
    described = {
        "recipe": RECIPE,
        "data": data.fingerprint,
        "seed": cfg.seed,
        "precision": cfg.trainer.precision,
        "ruler": OmegaConf.to_container(cfg.ruler),
        "augment": OmegaConf.to_container(cfg.augment) if cfg.augment else None,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def check_settings(cfg: DictConfig) -> None:
    """Raises ConfigError for the first setting that no ruler can be trained with."""
    for name in ("steps", "batch_size", "validate_every"):
        value = cfg.ruler[name]
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"ruler.{name}: must be a whole number, 1 or more, got {value}.")
    if cfg.ruler.learning_rate <= 0:
        raise ConfigError(f"ruler.learning_rate: must be more than 0, got {cfg.ruler.learning_rate}.")
    if cfg.augment and cfg.augment.get("holes"):
        raise ConfigError(
            "augment.holes: a lesion under a hole stays in its mask, so that a ruler would take holes for lesions; "
            "set augment.holes=0, or ruler=none."
        )


def has_lesions(dataset: Dataset) -> bool:
    """Whether any abnormal image has a pixel of lesion in its mask."""
    masks, abnormal = dataset.masks, np.flatnonzero(np.asarray(dataset.labels) != NORMAL)
    return masks is not None and any(masks[index].any() for index in abnormal)


@torch.no_grad()
def check_network(network: nn.Module, dataset: Dataset) -> None:
    """Raises ConfigError unless two of the images become two maps of their size."""
    image = dataset.batch([0, 0])["image"]
    _, channels, *sides = image.shape
    try:
        made = tuple(network.eval()(image).shape)
    except (RuntimeError, ValueError, IndexError):
        made = ()
    if made != (2, 1, *sides):
        raise ConfigError(
            f"ruler.network: makes no map of images of {'x'.join(map(str, sides))} pixels and {channels} channels; set "
            f"ruler.network.spatial_dims={len(sides)}, in_channels={channels} and out_channels=1; images need sides of "
            "32 pixels for ruler=unet."
        )
