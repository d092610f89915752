"""From an experiment file and overrides to one checked config.

Hydra composes; what it lets pass is caught here: unknown keys and wrong types in YAML files and in sections without a
schema, values that YAML built as Python objects, targets that are not allowed, values out of range.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from cfxai.config import overrides, schema
from cfxai.config.catalogue import CONF, EXPERIMENT
from cfxai.config.complaints import as_config_error
from cfxai.config.kinds import compare, refuse_objects
from cfxai.config.nearest import hint
from cfxai.config.targets import check_targets
from cfxai.errors import ConfigError

VERSION_BASE = "1.3"  # the Hydra behaviour that configs are written for

# What an experiment file may say to Hydra, and what Hydra itself fills in.
HYDRA_KEYS = {"searchpath", "launcher", "sweeper", "runtime", "overrides", "job"}


class ConfOnSearchPath(SearchPathPlugin):
    """Lets an experiment file anywhere build on `conf/`: its own directory is searched first, then `conf/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="cfxai", path=f"file://{CONF}")


def prepare_hydra() -> None:
    """Tell Hydra of `conf/` and of the typed sections; call before any use of Hydra."""
    Plugins.instance().register(ConfOnSearchPath)
    schema.register()


def compose(experiment: Path, lines: Sequence[str], multirun: bool = False) -> DictConfig:
    """The config of an experiment, with interpolations resolved; of a sweep, that of its first job.

    Every value of a sweep is checked, together with the first value of the others; and every setting beside every
    component or experiment that a sweep chooses.

    Args:
        experiment: an existing YAML file.
        lines: overrides in Hydra's grammar.
        multirun: whether an override may have several values.

    Raises:
        ConfigError: whatever is wrong with the file or the overrides.
    """
    prepare_hydra()
    known = list(overrides.paths(OmegaConf.to_container(OmegaConf.load(CONF / "base.yaml"))))
    with (
        initialize_config_dir(str(experiment.parent.absolute()), version_base=VERSION_BASE),
        complaints(experiment, known),
    ):
        loader = GlobalHydra.instance().config_loader()
        settings = [overrides.read(line, loader, multirun) for line in lines]
        choices = [setting for setting in settings if setting.is_group]
        for choice in choices:
            overrides.check(choice, loader, {}, {})
        for chosen in overrides.variants(choices):
            composed, hydra = _tree(hydra_compose(experiment.stem, chosen, return_hydra_config=True))
            known += overrides.paths(composed)
            defaults, hydra_defaults = _tree(_compose_defaults(hydra))
            _check_hydra_section(experiment, hydra, hydra_defaults)
            _check_file(experiment, composed, defaults, loader)
            for setting in settings:
                overrides.check(setting, loader, defaults, composed)
        configs = [_finish(experiment, variant, loader) for variant in overrides.variants(settings)]
    return configs[0]


@contextmanager
def complaints(experiment: Path, known: Sequence[str]) -> Iterator[None]:
    """Turn the errors of Hydra, OmegaConf and YAML into ConfigErrors; `known` are the valid keys, for hints."""
    try:
        yield
    except Exception as error:
        complaint = as_config_error(error, experiment, known)
        if complaint is None:
            raise
        raise complaint from error


def require_complete(cfg: DictConfig) -> None:
    """Raise ConfigError if a mandatory value (`???`) has not been given."""
    for key in sorted(OmegaConf.missing_keys(cfg)):
        options = CONF / key
        choices = f" (one of conf/{key})" if options.is_dir() else ""
        raise ConfigError(f"{key}: has no value; set {key}=…{choices} or name it in the experiment file")


def _compose_defaults(hydra: dict[str, Any]) -> DictConfig:
    """`conf/base.yaml` with the components that the experiments chose, without the experiments' own values."""
    base = OmegaConf.load(CONF / "base.yaml")
    listed = {str(key) for entry in base.defaults if isinstance(entry, DictConfig) for key in entry}
    chosen = {group: option for group, option in reversed(hydra["runtime"]["choices"].items()) if option is not None}
    components = {group: option for group, option in chosen.items() if not group.startswith(("hydra/", EXPERIMENT))}
    lines = [f"{'' if group in listed else '+'}{group}={_literal(option)}" for group, option in components.items()]
    return hydra_compose("base", lines, return_hydra_config=True)


def _literal(option: Any) -> str:
    return f"[{','.join(map(str, option))}]" if isinstance(option, list) else str(option)


def _tree(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """A composed config as plain values with interpolations resolved, and Hydra's own section as it stands."""
    hydra: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    tree: Any = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True
    )
    return tree, hydra


def _check_file(experiment: Path, composed: dict[str, Any], defaults: dict[str, Any], loader: ConfigLoader) -> None:
    if not schema.SECTIONS.keys() <= composed.keys():
        raise ConfigError(f"{experiment}: does not build on conf/base.yaml; begin it with defaults: [base, _self_]")
    groups = loader.list_groups("")
    own = {key for key in composed.keys() - defaults.keys() if key in groups or _is_component(composed[key])}
    untyped = {key: value for key, value in composed.items() if key not in own | schema.SECTIONS.keys()}
    try:
        refuse_objects(composed)
        compare(defaults, untyped, [*overrides.paths(defaults), *groups])
    except ConfigError as error:
        raise ConfigError(f"{experiment}: {error}") from None


def _is_component(section: Any) -> bool:
    return isinstance(section, dict) and "_target_" in section


def _check_hydra_section(experiment: Path, hydra: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse callbacks, loggers and the like: Hydra would call whatever they name."""
    for key in hydra.keys() - HYDRA_KEYS:
        if hydra[key] != defaults[key]:
            raise ConfigError(f"{experiment}: hydra.{key}: is set by cfxai; remove it")
    for key in ("launcher", "sweeper"):
        target = str((hydra[key] or {}).get("_target_"))
        if not target.startswith(("hydra.", "hydra._internal.core_plugins.", "hydra_plugins.")):
            raise ConfigError(f"{experiment}: hydra.{key}._target_: {target} is not a plugin of Hydra")


def _finish(experiment: Path, lines: list[str], loader: ConfigLoader) -> DictConfig:
    cfg = hydra_compose(experiment.stem, lines)
    OmegaConf.resolve(cfg)
    schema.check(cfg)
    check_targets(cfg)
    attributors = loader.get_group_options("attribution")
    for name in cfg.evaluation.attributors:
        if name not in attributors:
            raise ConfigError(f"evaluation.attributors: {name}: no such attributor{hint(name, attributors)}")
    return cfg
