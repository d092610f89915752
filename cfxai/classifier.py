"""The classifier that a run explains: given, taken from the cache, or trained first.

The cache holds one artefact per (data, classifier config, training config, seed), so that a sweep over anything else
trains it once.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.artefacts import trained_once, write_network
from cfxai.classifier_training import train_classifier
from cfxai.config.build import Parts
from cfxai.data.dataset import Data
from cfxai.nn.memory_format import convolve_fast
from cfxai.nn.weights import digest, load_weights
from cfxai.run.directory import Run

log = logging.getLogger("cfxai")

RECIPE = 2
"""Raised whenever the code changes what the same configuration trains, so that older artefacts are not taken for it."""
LATER: dict[str, dict[str, Any]] = {
    "trainer": {"precision": "32-true"},
    "classifier": {"pretrained": None},
    "classifier_training": {
        "class_weights": None,
        "accumulate": 1,
        "schedule": "cosine",
        "freeze": None,
        "unfreeze_at": None,
        "calibrate": False,
    },
}
"""Settings that came later, at the values that train what was trained without them: those do not enter the key."""


def obtain_oracle(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric) -> None:
    """The classifier that checks flips, written to `<run>/weights/oracle.safetensors`: obtained as the one explained.

    From another seed, so that it is another network even where it is of the same kind.
    """
    cfg = cfg.copy()
    cfg.classifier, cfg.seed = cfg.oracle, oracle_seed(cfg)
    obtain_classifier(parts, cfg, run, fabric, "oracle")


def oracle_seed(cfg: DictConfig) -> int:
    """Of the oracle's first weights and of its training."""
    return int(cfg.seed) + 1000


def obtain_classifier(parts: Parts, cfg: DictConfig, run: Run, fabric: Fabric, name: str = "classifier") -> nn.Module:
    """The frozen classifier, also written to `<run>/weights/<name>.safetensors`."""
    classifier: nn.Module = parts[name]
    artefact = run.weights / f"{name}.safetensors"
    if not artefact.is_file():
        described = {"classifier": OmegaConf.to_container(cfg.classifier)}
        given = cfg.classifier.get("weights")
        if given is not None:
            log.info("%s: %s", name, given)
            write_network(artefact, classifier, {**described, "from": str(given)})
        else:

            def train() -> tuple[nn.Module, dict[str, Any]]:
                trained, facts = train_classifier(classifier, parts["data"], cfg, run.part(name), fabric)
                return trained, {**described, **facts}

            cached = Path(cfg.cache) / "classifiers" / f"{classifier_key(cfg, parts['data'])}.safetensors"
            trained_once(name, train, cached, artefact, run)
    load_weights(classifier, artefact)
    log.info("%s: sha256 %s", name, digest(classifier)[:16])
    return convolve_fast(fabric.to_device(classifier)).eval().requires_grad_(False)


def classifier_key(cfg: DictConfig, data: Data) -> str:
    """sha256 over all that decides the trained weights."""
    sections: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name])
        for name in ("classifier", "classifier_training", "augment")
        if cfg[name]
    }
    sections["trainer"] = {"precision": cfg.trainer.precision}
    for name, neutral in LATER.items():
        sections[name] = {k: v for k, v in sections[name].items() if k not in neutral or v != neutral[k]}
    pretrained = cfg.classifier.get("pretrained")
    if isinstance(pretrained, str):
        sections["classifier"]["pretrained"] = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()
    described = {
        "recipe": RECIPE,
        "data": data.fingerprint,
        "seed": cfg.seed,
        **{k: v for k, v in sections.items() if v},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
