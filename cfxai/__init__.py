"""Counterfactual explanation of medical image classifiers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfxai.loaded import load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """`cfxai.load_run` imports torch only when it is asked for, so that the commands' help stays instant."""
    if name == "load_run":
        from cfxai.loaded import load_run

        return load_run
    raise AttributeError(f"module cfxai has no attribute {name}")
