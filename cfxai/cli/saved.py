"""The config that a run saved, read back to continue it; needs no Hydra."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cfxai.config import schema
from cfxai.config.catalogue import CONF
from cfxai.config.complaints import as_config_error
from cfxai.config.targets import check_targets
from cfxai.errors import ConfigError

CHANGEABLE = ("trainer", "evaluation")
SCHEDULES = ("method.steps", "method.autoencoder.steps")
"""As long as the training; the interpolation that said so was resolved when the config was saved."""


def load_with(directory: Path, overrides: Sequence[str]) -> DictConfig:
    """The saved config of the run in `directory`, with overrides of its trainer and evaluation settings applied.

    Settings that did not exist when the run was made have their defaults from `conf/base.yaml`.

    Raises:
        ConfigError: the file is damaged, an override is not allowed, or a value is wrong.
    """
    file = directory / "config.yaml"
    known: list[str] = []
    try:
        saved, base = OmegaConf.load(file), OmegaConf.load(CONF / "base.yaml")
        if not isinstance(saved, DictConfig) or not isinstance(base, DictConfig):
            raise ConfigError(f"{file}: is not a run's config")
        for name, section in schema.SECTIONS.items():
            saved[name] = OmegaConf.merge(OmegaConf.structured(section), base[name], saved.get(name) or {})
            known += [f"{name}.{key}" for key in saved[name] if name in CHANGEABLE]
        OmegaConf.set_struct(saved, True)
        steps = saved.trainer.steps
        for line in overrides:
            key, value = _allowed(line)
            OmegaConf.update(saved, key, value)
        for key in SCHEDULES:
            if OmegaConf.select(saved, key) == steps:
                OmegaConf.update(saved, key, saved.trainer.steps)
    except Exception as error:
        complaint = as_config_error(error, file, known)
        if complaint is None:
            raise
        raise complaint from error
    schema.check(saved)
    check_targets(saved)
    return saved


def _allowed(line: str) -> tuple[str, object]:
    key, equals, _ = line.partition("=")
    if not equals or key.partition(".")[0] not in CHANGEABLE or "." not in key:
        raise ConfigError(
            f"{line}: a run is continued as it was configured; only trainer.* and evaluation.* can change"
        )
    return key, OmegaConf.select(OmegaConf.from_dotlist([line]), key)
