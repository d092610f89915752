"""The `key=value` settings of the command line, read by Hydra's grammar and checked against the config."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser

from cfxai.config.kinds import compare, mismatch
from cfxai.config.nearest import hint
from cfxai.config.schema import SECTIONS
from cfxai.errors import ConfigError

ABSENT = object()
SWEEP_SETTINGS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")


@dataclass(frozen=True)
class Setting:
    """One override; of a sweep, once for each of its values.

    Attributes:
        key: dotted key, or component group.
        lines: the override for each value, in Hydra's grammar.
        values: the values; empty for a deletion.
        is_group: it chooses a component: `loss=coin`.
        is_new: it may name a key that does not exist yet: `+loss.kl=1`.
    """

    key: str
    lines: tuple[str, ...]
    values: tuple[Any, ...]
    is_group: bool
    is_new: bool


def read(line: str, loader: ConfigLoader, multirun: bool) -> Setting:
    """Parse one override. Intervals, which only some sweepers take, are represented by their two ends.

    Raises:
        ConfigError: several values without `-m`, or none that match; a setting of Hydra's that has no effect here.
    """
    parser = OverridesParser.create(config_loader=loader)
    (override,) = parser.parse_overrides([line])
    key = str(override.key_or_group)
    lines: tuple[str, ...] = (line,)
    if override.is_sweep_override():
        if not multirun:
            raise ConfigError(f"{line}: several values make a sweep; add -m, or write a list as [a,b]")
        if override.is_interval_sweep():
            interval: Any = override.value()
            swept = [str(interval.start), str(interval.end)]
        else:
            swept = list(override.sweep_string_iterator())
        if not swept:
            raise ConfigError(f"{line}: no option matches; --help lists the options of each group")
        lines = tuple(f"{override.get_key_element()}={value}" for value in swept)
    _check_hydra_key(key, multirun)
    if multirun and key.startswith("run.") and override.is_sweep_override():
        raise ConfigError(f"{key}: belongs to the whole sweep and has one value")
    values = () if override.is_delete() else tuple(parser.parse_override(each).value() for each in lines)
    chooses = not any(isinstance(value, dict) for value in values)
    is_group = chooses and bool(loader.get_group_options(key, ObjectType.CONFIG))
    return Setting(key, lines, values, is_group, override.is_add() or override.is_force_add())


def check(setting: Setting, loader: ConfigLoader, defaults: Mapping[str, Any], composed: Mapping[str, Any]) -> None:
    """Check one setting against the config that the experiment alone composes to.

    Args:
        defaults: what the chosen components' own files say.
        composed: the same with the experiment's changes.

    Raises:
        ConfigError: unknown option or key, or a value of another kind than the default.
    """
    if setting.key.startswith("hydra"):
        return
    if setting.is_group:
        _check_options(setting, loader)
        return
    current = look_up(composed, setting.key)
    if current is ABSENT:
        if not setting.is_new:
            raise ConfigError(f"{setting.key}: no such key{hint(setting.key, [*paths(composed), *_groups(loader)])}")
        return
    if setting.key.partition(".")[0] in SECTIONS:
        return
    default = look_up(defaults, setting.key)
    rule = current if default in (None, ABSENT) else default
    for value in setting.values:
        if isinstance(rule, dict) and isinstance(value, dict):
            compare(rule, value, list(paths(composed)), f"{setting.key}.")
        elif complaint := mismatch(rule, value):
            raise ConfigError(f"{setting.key}: {complaint}")


def variants(settings: Sequence[Setting]) -> Iterator[list[str]]:
    """Override lines in which every value of every setting appears once, the other settings at their first value."""
    first = [setting.lines[0] for setting in settings]
    yield first
    for position, setting in enumerate(settings):
        for line in setting.lines[1:]:
            yield [*first[:position], line, *first[position + 1 :]]


def look_up(tree: Any, key: str) -> Any:
    """The value at a dotted key, or ABSENT."""
    for part in key.split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return ABSENT
    return tree


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a config, sections included, as dotted paths."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from paths(value, f"{prefix}{key}.")


def _groups(loader: ConfigLoader) -> list[str]:
    """Every component group, nested ones as `outer/inner`."""
    outer = loader.list_groups("")
    return [*outer, *(f"{group}/{inner}" for group in outer for inner in loader.list_groups(group))]


def _check_options(setting: Setting, loader: ConfigLoader) -> None:
    options = loader.get_group_options(setting.key, ObjectType.CONFIG)
    for value in setting.values:
        for option in value if isinstance(value, list) else ["null" if value is None else value]:
            if str(option) not in options:
                raise ConfigError(f"{setting.key}={option}: no such option{hint(str(option), options)}")


def _check_hydra_key(key: str, multirun: bool) -> None:
    if not key.startswith(("hydra.", "hydra/")) or key == "hydra.searchpath":
        return
    if not multirun:
        raise ConfigError(f"{key}: has no effect without -m; a run's directory is set by run.root and run.name")
    if not key.startswith(SWEEP_SETTINGS):
        raise ConfigError(f"{key}: is set by cfxai; of Hydra's own, hydra.searchpath, launcher and sweeper can be set")
