"""Types and ranges of the settings that belong to no component; `conf/base.yaml` has their defaults and meanings.

To add one: a line in a class here, a line in `conf/base.yaml`, and a line in `RANGES` if not every value is good.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cfxai.errors import ConfigError


@dataclass
class Run:
    name: str | None
    root: str


@dataclass
class Trainer:
    steps: int
    batch_size: int
    validate_every: int
    checkpoint_every: int
    log_every: int
    precision: str
    accelerator: str
    threads: int | None
    balanced: bool
    balanced_by: str
    augment: bool
    validation_images: int


@dataclass
class ClassifierTraining:
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    smoothing: float
    validate_every: int
    balanced: bool
    class_weights: Any
    accumulate: int
    schedule: str
    freeze: str | None
    unfreeze_at: float | None
    calibrate: bool


@dataclass
class Evaluation:
    cf_threshold: Any
    tau: float
    postprocess: bool
    saliency_threshold: float | None
    skip_fid: bool
    faithfulness: bool
    sanity: bool
    sanity_images: int
    attributors: list[str]
    sweep_images: int
    panels: int
    max_images: int | None
    operating_point: Any
    threshold_images: int
    batch_size: int


@dataclass
class Paper:
    table: str | None
    row: str | None
    what: str | None
    fid: float | None
    cv: float | None
    iou: float | None
    attributors: dict[str, float]


SECTIONS: dict[str, type] = {
    "run": Run,
    "trainer": Trainer,
    "classifier_training": ClassifierTraining,
    "evaluation": Evaluation,
    "paper": Paper,
}

Rule = tuple[Callable[[Any], bool], str]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*names: str) -> Rule:
    return lambda value: value in names, "one of " + ", ".join(names)


POSITIVE: Rule = (lambda value: value > 0, "more than 0")
COUNT: Rule = (lambda value: isinstance(value, int) and value >= 0, "a whole number, 0 or more")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "0 or more")
FRACTION: Rule = (lambda value: 0 <= value <= 1, "between 0 and 1")
BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "at least 0 and less than 1")
FRACTION_OR_AUTO: Rule = (
    lambda value: value == "auto" or (_number(value) and 0 <= value <= 1),
    "between 0 and 1, or auto",
)
CLASS_WEIGHTS: Rule = (
    lambda value: value == "balanced" or (OmegaConf.is_list(value) and all(_number(w) and w > 0 for w in value)),
    "balanced, or a list of numbers above 0, one for each class",
)
OPERATING_POINT: Rule = (
    lambda value: (
        0 < value < 1
        if _number(value)
        else re.fullmatch(r"youden|(sensitivity|specificity)>=(0?\.\d+|1(\.0*)?)", str(value)) is not None
    ),
    "youden, sensitivity>=0.95, specificity>=0.95, or a probability between 0 and 1",
)

RANGES: dict[str, Rule] = {
    "seed": COUNT,
    "trainer.steps": POSITIVE,
    "trainer.batch_size": POSITIVE,
    "trainer.validate_every": POSITIVE,
    "trainer.checkpoint_every": POSITIVE,
    "trainer.log_every": POSITIVE,
    "trainer.precision": _one_of(*PRECISIONS),
    "trainer.accelerator": _one_of(*ACCELERATORS),
    "trainer.threads": POSITIVE,
    "trainer.balanced_by": _one_of("label", "condition"),
    "trainer.validation_images": POSITIVE,
    "classifier_training.steps": POSITIVE,
    "classifier_training.batch_size": POSITIVE,
    "classifier_training.learning_rate": POSITIVE,
    "classifier_training.weight_decay": NOT_NEGATIVE,
    "classifier_training.smoothing": BELOW_ONE,
    "classifier_training.validate_every": POSITIVE,
    "classifier_training.class_weights": CLASS_WEIGHTS,
    "classifier_training.accumulate": POSITIVE,
    "classifier_training.schedule": _one_of("cosine", "constant", "step", "plateau"),
    "classifier_training.freeze": _one_of("backbone"),
    "classifier_training.unfreeze_at": FRACTION,
    "evaluation.cf_threshold": FRACTION_OR_AUTO,
    "evaluation.tau": FRACTION,
    "evaluation.saliency_threshold": FRACTION,
    "evaluation.sanity_images": POSITIVE,
    "evaluation.sweep_images": NOT_NEGATIVE,
    "evaluation.panels": NOT_NEGATIVE,
    "evaluation.max_images": POSITIVE,
    "evaluation.operating_point": OPERATING_POINT,
    "evaluation.threshold_images": POSITIVE,
    "evaluation.batch_size": POSITIVE,
}


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for the first setting whose value is out of its range; null and absent settings pass."""
    for key, (holds, range_) in RANGES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not holds(value):
            raise ConfigError(f"{key}: must be {range_}, got {value}")


def register() -> None:
    """Make the typed sections known to Hydra as the config `base_schema`, which `conf/base.yaml` builds on."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store("base_schema", dict(SECTIONS))
