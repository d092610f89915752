"""Which classes and functions a config may name as `_target_`, and how they are found.

A config is data that people pass around: what it names must not be able to run commands, unpickle or download.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cfxai.config.nearest import hint
from cfxai.errors import ConfigError

# Packages whose classes and functions a config may name. Only those parts of large libraries that hold components:
# the rest of `torch` and `monai` can run shell commands, unpickle or download.
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "monai.inferers",
    "monai.losses",
    "monai.metrics",
    "monai.networks",
    "monai.transforms",
    "timm.create_model",
    "timm.layers",
    "timm.models",
    "timm.optim",
    "segmentation_models_pytorch",
    "torchmetrics",
    "captum",
    "zennit",
)
OWN = "cfxai"
READS_OR_WRITES_FILES = ("load", "save", "from_pretrained", "download", "export")
SPECIAL_KEYS = ("_target_", "_partial_", "_args_")


def check_targets(cfg: Mapping[str, Any]) -> None:
    """Refuse a config that names, at any depth, a `_target_` outside `cfxai`, `LIBRARIES` and its `plugins`.

    Nothing is imported.

    Raises:
        ConfigError: naming the key and the target.
    """
    tree = plain(cfg)
    plugins = tuple(tree.get("plugins") or ())
    for plugin in plugins:
        root = str(plugin).partition(".")[0]
        if root in sys.stdlib_module_names or plugin in {library.partition(".")[0] for library in LIBRARIES}:
            raise ConfigError(f"plugins: {plugin} is not a package of components; name your own package")
    for where, node in _nodes(tree, ""):
        unknown = [key for key in node if key.startswith("_") and key.endswith("_") and key not in SPECIAL_KEYS]
        if unknown:
            raise ConfigError(f"{where}.{unknown[0]}: not supported; only {', '.join(SPECIAL_KEYS)} are")
        if "_target_" in node:
            _check_name(node["_target_"], plugins, f"{where}._target_")


def find(target: str, plugins: tuple[str, ...] = (), where: str = "_target_") -> Callable[..., Any]:
    """Import the class or function that `target` names; `where` is the key that error messages name.

    Raises:
        ConfigError: it does not exist, its package is not installed, or it is not what its name promises: a name such
            as `cfxai.config.build.sys` leads out of the packages that may be named.
    """
    _check_name(target, plugins, where)
    found = _import(target, where)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ConfigError(f"{where}: {target} is neither a class nor a function")
    home = f"{found.__module__}.{found.__qualname__}"
    if not (within(target, plugins) or within(home, (OWN, *LIBRARIES, *plugins))):
        raise ConfigError(f"{where}: {target} is really {home}, which a config may not name")
    return found


def _check_name(target: Any, plugins: tuple[str, ...], where: str) -> None:
    dotted = isinstance(target, str) and "." in target and all(part.isidentifier() for part in target.split("."))
    if not dotted:
        raise ConfigError(f"{where}: {target!r} is not a dotted name such as {OWN}.methods.coin.Coin")
    if within(target, plugins):
        return
    package, *names = target.split(".")
    private = any(name.startswith("_") for name in names)
    if private or not within(target, (OWN, *LIBRARIES)):
        raise ConfigError(f"{where}: {target} is not allowed; {_advice(package)}")
    if package != OWN and names[-1].startswith(READS_OR_WRITES_FILES):
        raise ConfigError(f"{where}: {target} is not allowed, because it reads or writes files")


def _advice(package: str) -> str:
    allowed = [library for library in (OWN, *LIBRARIES) if within(library, (package,))]
    if allowed:
        return f"of {package}, public names in {', '.join(allowed)} are"
    if package in sys.stdlib_module_names:
        return f"name a component of {OWN} or of a package in plugins"
    return f"if you trust that package, set plugins=[{package}]"


def within(target: str, packages: tuple[str, ...]) -> bool:
    """Whether the dotted name `target` is one of `packages` or lies in one of them."""
    return any(target == package or target.startswith(f"{package}.") for package in packages)


def _import(target: str, where: str) -> Any:
    package, *names = target.split(".")
    found: Any = _module(package, target, where)
    for depth, name in enumerate(names, start=1):
        if not hasattr(found, name) and hasattr(found, "__path__"):
            found = _module(".".join([package, *names[:depth]]), target, where)
            continue
        if not hasattr(found, name):
            raise _unknown(where, target, found, name)
        found = getattr(found, name)
    return found


def _module(name: str, target: str, where: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        parent, _, child = name.rpartition(".")
        if error.name == name and parent:
            raise _unknown(where, target, import_module(parent), child) from None
        raise ConfigError(
            f"{where}: {target} needs the package {error.name}, which is not installed or not on PYTHONPATH"
        ) from None


def _unknown(where: str, target: str, parent: Any, name: str) -> ConfigError:
    options = {option for option in vars(parent) if not option.startswith("_")}
    options |= {module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))}
    return ConfigError(f"{where}: {target} does not exist: {parent.__name__} has no {name}{hint(name, options)}")


def plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain dicts and lists, interpolations resolved."""
    config = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _nodes(tree: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping in `tree` with its key path."""
    if isinstance(tree, dict):
        yield where, tree
        for key, value in tree.items():
            yield from _nodes(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _nodes(value, f"{where}[{index}]")
