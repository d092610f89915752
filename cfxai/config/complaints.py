"""One sentence for each error that Hydra, OmegaConf or YAML raises about a user's config."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError

from cfxai.config.kinds import EXPECTED
from cfxai.config.nearest import hint
from cfxai.errors import ConfigError

TYPE_NAMES = {"Boolean": bool, "Integer": int, "Float": float, "String": str, "ListConfig": list, "DictConfig": dict}


def as_config_error(error: Exception, experiment: Path, known: Sequence[str]) -> ConfigError | None:
    """The ConfigError that says what `error` says; None if `error` is none of the user's doing.

    Args:
        error: as raised while composing `experiment`.
        experiment: the file that the command named.
        known: the valid keys, for hints.
    """
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, MarkedYAMLError):
        return ConfigError(_yaml(error, experiment))
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: not an override; write key=value, with quotes around special characters")
    if isinstance(error, MissingConfigException):
        return ConfigError(_missing(error, experiment))
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OmegaConfBaseException):
            return ConfigError(_omegaconf(cause, experiment, known))
    if isinstance(error, HydraException):
        return ConfigError(f"{experiment}: {_first_line(error)}")
    if isinstance(error, RuntimeError) and "Could not detect" in str(error):  # submitit away from a cluster
        return ConfigError("hydra/launcher=submitit_slurm: there is no SLURM here (no srun); use hydra/launcher=joblib")
    return None


def _yaml(error: MarkedYAMLError, experiment: Path) -> str:
    mark = error.problem_mark
    place = f"{mark.name}, line {mark.line + 1}" if mark else str(experiment)
    if "constructor for the tag" in str(error.problem):
        return f"{place}: YAML tags that build Python objects are refused; write plain values"
    return f"{place}: not valid YAML ({error.problem})"


def _missing(error: MissingConfigException, experiment: Path) -> str:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper"):
        return f"{group}={option}: no such plugin is installed; pip install -e '.[sweep]' brings joblib and submitit"
    if group:
        return f"{group}={option}: no such option{hint(option, error.options or [])}"
    return f"{experiment}: builds on {missing}.yaml, which is not found beside it nor in conf/"


def _omegaconf(error: OmegaConfBaseException, experiment: Path, known: Sequence[str]) -> str:
    key = error.full_key or str(experiment)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{key}: no such key{hint(key, known)}"
    if isinstance(error, InterpolationKeyError) and (target := re.search(r"'(.+)'", str(error))):
        return f"{key}: ${{{target[1]}}} points to no key{hint(target[1], known)}"
    if isinstance(error, ValidationError):
        conversion = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", str(error))
        if conversion and conversion[2] in TYPE_NAMES:
            return f"{key}: expected {EXPECTED[TYPE_NAMES[conversion[2]]]}, got {conversion[1]!r}"
    return f"{key}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".:")
