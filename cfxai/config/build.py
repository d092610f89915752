"""From config to objects: the one place where a `_target_` is called.

A section of the config with `_target_: package.Class` becomes an object; its keys are the constructor's arguments.
Arguments that it lacks are filled from the sections of the same name, each built once and shared:
`Coin(classifier, generator, loss)` receives what `cfg.classifier`, `cfg.generator` and `cfg.loss` describe.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cfxai.config.kinds import wrong_kind
from cfxai.config.nearest import hint
from cfxai.config.targets import LIBRARIES, check_targets, find, plain, within
from cfxai.errors import ConfigError


class Parts:
    """The experiment's components, each built on first use and shared by name.

    Args:
        cfg: the whole config; every `_target_` in it is checked before anything is built.
        given: objects that exist already; they take precedence over sections of the same name.
    """

    def __init__(self, cfg: Mapping[str, Any], **given: Any) -> None:
        check_targets(cfg)
        self._sections = plain(cfg)
        self._plugins = tuple(self._sections.get("plugins") or ())
        self._built: dict[str, Any] = given
        self._under_way: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._built or self._sections.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            if name in self._under_way:
                raise ConfigError(f"{name}: needs itself ({' -> '.join([*self._under_way, name])})")
            if name not in self._sections:
                raise ConfigError(f"{name}: the config has no such section{hint(name, self._sections)}")
            self._under_way.append(name)
            try:
                self._built[name] = self._value(self._sections[name], name, {})
            finally:
                self._under_way.pop()
        return self._built[name]

    def fresh(self, node: Mapping[str, Any], where: str = "component", /, **offered: Any) -> Any:
        """Build a component that is not shared, such as an attributor from `conf/attribution`.

        Args:
            node: its description; components of the experiment are filled in by name.
            where: how error messages call it.
            offered: further values for its constructor, if it has parameters of those names.
        """
        check_targets({"plugins": list(self._plugins), where: node})
        return self._value(plain(node), where, offered)

    def _value(self, node: Any, where: str, offered: Mapping[str, Any]) -> Any:
        if isinstance(node, list):
            return [self._value(item, f"{where}[{index}]", offered) for index, item in enumerate(node)]
        if isinstance(node, dict):
            items = {
                key: self._value(item, f"{where}.{key}", offered) for key, item in node.items() if key != "_target_"
            }
            return self._call(node["_target_"], items, where, offered) if "_target_" in node else items
        if node == "???":
            raise ConfigError(f"{where}: has no value; set {where}=…")
        return node

    def _call(self, target: str, values: dict[str, Any], where: str, offered: Mapping[str, Any]) -> Any:
        make = find(target, self._plugins, where)
        args, later = values.pop("_args_", []), values.pop("_partial_", False)
        parameters = _parameters(make)
        _check_given(parameters, values, target, where)
        if later:
            return partial(make, *args, **values)
        from_library = within(target, LIBRARIES)
        missing = [parameter for parameter in list(parameters.values())[len(args) :] if parameter.name not in values]
        for parameter in filter(_named, missing):
            # Optional parameters of libraries stay unfilled: a DataLoader's `generator` is not COIN's.
            required = parameter.default is parameter.empty
            name = parameter.name
            if name in offered:
                values[name] = offered[name]
            elif name in self and name not in self._under_way[-1:] and (required or not from_library):
                values[name] = self[name]
            elif required:
                raise ConfigError(f"{where}.{name}: {target} needs it; set {where}.{name}=… or add a section {name}")
        try:
            return make(*args, **values)
        except (TypeError, ValueError, RuntimeError) as error:
            if not from_library:
                raise  # our own components say by ConfigError what a user did wrong; the rest is a bug
            raise ConfigError(f"{where}: {target} refuses its arguments: {' '.join(str(error).split())}") from error


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except ValueError:  # some built-in types have no signature; they check their arguments themselves
        anything = inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)
        return {anything.name: anything}


def _check_given(
    parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any], target: str, where: str
) -> None:
    """Refuse arguments that the constructor does not have, or whose kind its type hint rules out."""
    known = [parameter.name for parameter in parameters.values() if _named(parameter)]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in values.items():
        if key in known:
            hinted = parameters[key].annotation
            if hinted in (bool, int, float, str) and (complaint := wrong_kind(hinted, value)):
                raise ConfigError(f"{where}.{key}: {complaint}")
        elif not open_ended:
            raise ConfigError(f"{where}.{key}: {target} takes no such argument{hint(key, known)}")


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
