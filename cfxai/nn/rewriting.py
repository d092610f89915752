"""The steps by which a traced network becomes canonical."""

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cfxai.nn.layer_kinds import (
    ARITHMETIC,
    CONSTANT,
    KNOWN,
    LAYERS,
    LINEAR,
    MOVES,
    HeadInput,
    HeldFixed,
    Mean,
    Sum,
    stacked,
)


class Rewriting:
    """A graph traced by `ShapeTracer` made canonical.

    Args:
        graph: is rewritten.
        root: the network that it was traced from; its modules are taken over.

    Attributes:
        network: the result, its modules in the order of execution.
        head: names of the modules that make the output from what `HeadInput` marks.
        foreign: functions on the way to the output that are neither modules nor mere moves.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph = graph
        self.parts: dict[str, Any] = {}
        self._separate(root)
        self._drop_inactive()
        self._name_layers()
        self._name_arithmetic()
        self._fold_batch_norms()
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.head = self._mark_head()
        self.foreign = self._find_foreign()
        self.network = fx.GraphModule(self.parts, graph).eval().requires_grad_(False)

    def layer(self, node: Any) -> nn.Module | None:
        """The module that a node calls."""
        calls = isinstance(node, fx.Node) and node.op == "call_module"
        return self.parts[str(node.target)] if calls else None

    def _own(self, node: fx.Node, part: Any) -> None:
        """Registers what a node calls or reads, under a name of its own."""
        if getattr(part, "inplace", False):
            part.inplace = False
        node.target = f"{node.name}_part"
        self.parts[node.target] = part

    def _become(self, node: fx.Node, layer: nn.Module, x: Any, **kwargs: Any) -> None:
        node.op, node.args, node.kwargs = "call_module", (x,), kwargs
        self._own(node, layer)

    def _separate(self, root: nn.Module) -> None:
        """One module for each call, never in place."""
        called: set[nn.Module] = set()
        for node in self.graph.nodes:
            if node.op == "get_attr":
                self._own(node, operator.attrgetter(str(node.target))(root))
            elif node.op == "call_module":
                module = root.get_submodule(str(node.target))
                self._own(node, copy.deepcopy(module) if module in called else module)
                called.add(module)

    def _drop_inactive(self) -> None:
        for node in list(self.graph.nodes):
            inactive = isinstance(self.layer(node), nn.Identity | nn.modules.dropout._DropoutNd)
            if inactive or node.target in (F.dropout, F.dropout2d, F.dropout3d):
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
            elif node.target is torch._assert:
                self.graph.erase_node(node)

    def _name_layers(self) -> None:
        """`F.relu(x)`, `x.relu()`, `F.adaptive_avg_pool2d(x, 1)`, `x.mean((2, 3))` … become modules."""
        for node in self.graph.nodes:
            if node.op not in ("call_function", "call_method") or not node.args:
                continue
            x, *options = node.args
            cls = LAYERS.get(node.target)
            if cls is Mean:
                self._become(node, Mean(*options, **node.kwargs), x)
            elif cls is not None:
                names = list(inspect.signature(node.target).parameters)[1:] if options else []
                given = {**dict(zip(names, options, strict=True)), **node.kwargs}
                known = inspect.signature(cls).parameters
                self._become(node, cls(**{k: v for k, v in given.items() if k in known}), x)

    def _activations(self) -> set[fx.Node]:
        """The nodes whose tensors depend on the image."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            depends = node.op == "placeholder" or any(source in found for source in node.all_input_nodes)
            if depends and node.meta.get("shape") is not None and node.target not in CONSTANT:
                found.add(node)
        return found

    def _name_arithmetic(self) -> None:
        """Sums of activations become `Sum`; arithmetic with a constant or a gate `HeldFixed`."""
        activations = self._activations()
        for node in list(self.graph.nodes):
            if node not in activations or node.target not in ARITHMETIC or len(node.args) != 2 or node.kwargs:
                continue
            (a, b), operation = node.args, ARITHMETIC[node.target]
            both = a in activations and b in activations
            if both and operation is torch.add:
                with self.graph.inserting_before(node):
                    stack = self.graph.call_function(stacked, (a, b))
                stack.meta["shape"] = node.meta["shape"]
                self._become(node, Sum(), stack)
            elif both and operation is torch.mul:
                if (gate := self._gate(a, b)) is not None:
                    self._hold_fixed(node, operation, b if gate is a else a, gate)
            elif not both and a in activations:
                self._hold_fixed(node, operation, a, b)
            elif not both and operation in (torch.add, torch.mul):
                self._hold_fixed(node, operation, b, a)

    def _hold_fixed(self, node: fx.Node, operation: Callable[..., Tensor], x: fx.Node, other: Any) -> None:
        before, after = x.meta["shape"], node.meta["shape"]
        if before != after:  # a grey image normalised by the statistics of three channels
            if len(before) != len(after):
                return
            with self.graph.inserting_before(node):
                x = self.graph.call_method("expand", (x, -1, *after[1:]))
            x.meta["shape"] = after
        self._become(node, HeldFixed(operation), x, other=other)

    def _gate(self, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """Of two factors the gate: a sigmoid, or the one that is broadcast; None where that is not clear."""
        bounded = [node for node in (a, b) if isinstance(self.layer(node), nn.Sigmoid | nn.Hardsigmoid)]
        small, large = sorted((a, b), key=lambda node: node.meta["shape"].numel())
        broadcast = [small] if small.meta["shape"] != large.meta["shape"] else []
        candidates = bounded or broadcast
        return candidates[0] if len(candidates) == 1 else None

    def _fold_batch_norms(self) -> None:
        for node in list(self.graph.nodes):
            norm = self.layer(node)
            if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
                continue
            (source,) = node.args
            before = self.layer(source)
            if len(source.users) > 1 or not isinstance(before, nn.Linear | nn.modules.conv._ConvNd):
                continue
            if isinstance(before, nn.Linear):
                fused: nn.Module = fuse_linear_bn_eval(before, norm)
            else:
                fused = fuse_conv_bn_eval(before, norm, isinstance(before, nn.modules.conv._ConvTransposeNd))
            self.parts[source.target] = fused
            node.replace_all_uses_with(source)
            self.graph.erase_node(node)

    def _mark_head(self) -> frozenset[str]:
        """From the output back through constants and moves, and through the linear layer before them."""
        activations, output = self._activations(), next(reversed(self.graph.nodes))
        head: set[str] = set()
        pending = [(output, source) for source in output.all_input_nodes]
        while pending:
            user, node = pending.pop()
            layer = self.layer(node)
            if node not in activations or isinstance(layer, HeadInput):
                continue
            moves = layer is None and node.target in MOVES
            if (moves or isinstance(layer, (HeldFixed, *LINEAR))) and not isinstance(self.layer(user), LINEAR):
                head.update([] if moves else [str(node.target)])
                pending += [(node, source) for source in (node.all_input_nodes if moves else node.args)]
                continue
            with self.graph.inserting_before(user):
                mark = self.graph.call_function(HeadInput, (node,))
            mark.meta["shape"] = node.meta["shape"]
            user.replace_input_with(node, mark)
            self._become(mark, HeadInput(), node)
        return frozenset(head)

    def _find_foreign(self) -> tuple[str, ...]:
        activations, found = self._activations(), []
        pending, seen = list(next(reversed(self.graph.nodes)).all_input_nodes), set()
        while pending:
            node = pending.pop()
            if node in seen or node not in activations:
                continue
            seen.add(node)
            layer = self.layer(node)
            if layer is None and node.op != "placeholder" and node.target not in MOVES:
                found.append(str(getattr(node.target, "__name__", node.target)))
            elif layer is not None and not isinstance(layer, KNOWN):
                found.append(type(layer).__name__)
            # Whatever a HeldFixed holds fixed may be made as it likes.
            pending += node.args if isinstance(layer, HeldFixed) else node.all_input_nodes
        return tuple(sorted(set(found)))
