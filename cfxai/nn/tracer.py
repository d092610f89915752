"""Recording a network's forward pass as a torch.fx graph, with every shape known on the way.

Plain symbolic tracing stops at Python that looks at shapes, which preprocessing and stems commonly do. Here an example
runs beside the symbols and answers such questions; only the batch size stays open.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import Argument, Target, map_aggregate


class ShapeTracer(fx.Tracer):
    """Traces a network of one image [b c *spatial].

    Each node's `meta["shape"]` is its tensor's shape, a list of shapes for several tensors, None for anything else.
    Layers of torch.nn, and variants of them without layers of their own (timm's LayerNorm2d), are single nodes.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self._computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or (is_layer(m) and not list(m.children()))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def create_proxy(
        self,
        kind: str,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> fx.Proxy:
        symbol = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        if kind != "output":
            value = self._compute(symbol.node)
            self.values[symbol.node] = value
            symbol.node.meta["shape"] = _shape(value)
        return symbol

    # While an example's value is computed, layers are called and weights are read as if nothing were traced.

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _compute(self, node: fx.Node) -> Any:
        def value(argument: Argument) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            if argument.op == "get_attr":  # tensor constants become nodes without passing through `create_proxy`
                return _attribute(self.root, str(argument.target))
            return self.values[argument]

        if node.op == "placeholder":
            return self.example
        self._computing = True
        try:
            args, kwargs = map_aggregate(node.args, value), map_aggregate(node.kwargs, value)
            match node.op:
                case "get_attr":
                    return _attribute(self.root, str(node.target))
                case "call_module":
                    return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
                case "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                case _:
                    return node.target(*args, **kwargs)  # type: ignore[operator]
        finally:
            self._computing = False


def is_layer(module: nn.Module) -> bool:
    """Whether it is one of torch.nn's layers or derived from one; containers are not layers."""
    homes = [base.__module__ for base in type(module).__mro__ if base is not nn.Module]
    layers = [home for home in homes if home.startswith("torch.nn.modules.")]
    return bool(layers) and "torch.nn.modules.container" not in layers


class _Symbol(fx.Proxy):
    """A proxy whose shape is a tuple of numbers, but for the batch size, which stays a symbol."""

    @property
    def shape(self) -> tuple[Any, ...]:
        return (self._batch(), *self._value().shape[1:])

    @property
    def ndim(self) -> int:
        return self._value().ndim

    def dim(self) -> int:
        return self._value().ndim

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def _batch(self) -> fx.Proxy:
        return self.tracer.create_proxy("call_method", "size", (self, 0), {})

    def _value(self) -> Tensor:
        value = self.tracer.values[self.node]  # type: ignore[attr-defined]
        if not isinstance(value, Tensor):
            raise AttributeError("only tensors have a shape")
        return value


def _shape(value: Any) -> Any:
    if isinstance(value, tuple | list):
        shapes = [_shape(part) for part in value]
        return shapes if any(shapes) else None
    return value.shape if isinstance(value, Tensor) else None


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root
