"""What kind of value a key holds, for sections that have no schema: the default's kind is the rule."""

from collections.abc import Iterable, Mapping
from typing import Any

from cfxai.config.nearest import hint
from cfxai.errors import ConfigError

EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a section (key: value)",
}


def mismatch(default: Any, value: Any) -> str | None:
    """Why `value` cannot replace `default`; None if it can. A default of null takes anything.

    Null replaces anything too: whether a component takes it is known by its constructor's hints, see `build`.
    """
    if default in (None, "???") or value in (None, "???") or "${" in str(value):
        return None
    expected = type(default)
    if wrong := wrong_kind(float if expected is int else expected, value):  # 1 in YAML often stands for 1.0
        return wrong
    if expected is list and len({type(item) for item in default}) == 1:
        return next(filter(None, (mismatch(default[0], item) for item in value)), None)
    return None


def wrong_kind(expected: type, value: Any) -> str | None:
    """Why `value` is not an `expected`; None if it is. A whole number is a number, but true is not 1."""
    if type(value) is expected or (expected is float and type(value) is int):
        return None
    return f"expected {EXPECTED[expected]}, got {'null' if value is None else repr(value)}"


def compare(defaults: Mapping[str, Any], values: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Raise ConfigError for the first key of `values` that `defaults` lacks or whose value is of another kind.

    A component (a section with `_target_`) may have further keys: its constructor knows them. So may a section whose
    default is empty.
    """
    for key, value in values.items():
        path = f"{where}{key}"
        default = defaults.get(key)
        if key not in defaults:
            if "_target_" not in values:
                raise ConfigError(f"{path}: no such key{hint(path, known)}")
        elif isinstance(default, dict) and isinstance(value, dict):
            if default and default.get("_target_") == value.get("_target_", default.get("_target_")):
                compare(default, value, known, f"{path}.")
        elif complaint := mismatch(default, value):
            raise ConfigError(f"{path}: {complaint}")


def refuse_objects(tree: Any, where: str = "") -> None:
    """Raise ConfigError if YAML built anything but plain values, as `!!python/…` and `!!binary` tags do."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            refuse_objects(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            refuse_objects(value, f"{where}[{index}]")
    elif type(tree) not in (bool, int, float, str, type(None)):
        raise ConfigError(f"{where}: is a Python object ({type(tree).__name__}), which is refused; write a plain value")
