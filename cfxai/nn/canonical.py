"""A network as rules for propagating relevance need it: one module per operation, none used twice.

Rules such as DeepLIFT's and LRP's are stated layer by layer. Networks are not written so: a sum is a `+`, one ReLU
serves three places and works in place, batch norm follows its convolution. `canonical` rewrites a copy.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn

from cfxai.errors import UnsuitableError
from cfxai.nn.freeze import frozen
from cfxai.nn.rewriting import Rewriting
from cfxai.nn.tracer import ShapeTracer
from cfxai.protocols import Image

ALTERNATIVES = "use integrated_gradients, rise or occlusion, which work on any network"
"""How the sentence ends that refuses a network."""


@dataclass(frozen=True)
class Canonical:
    """A canonical copy.

    Attributes:
        network: the copy.
        head: names of its modules behind `HeadInput`: the last linear layer and what only moves or scales its output.
        foreign: what computes on the way to the output and has no propagation rule: "softmax", "matmul".
    """

    network: fx.GraphModule
    head: frozenset[str]
    foreign: tuple[str, ...]


class CanonicalCopy:
    """The canonical form of a classifier, made anew when its weights, its layers or the image size have changed."""

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self._made_for: tuple[Any, ...] = ()
        self._copy: Canonical | None = None

    def of(self, image: Image) -> Canonical:
        """Raises UnsuitableError as `canonical` does."""
        now = (*image.shape[1:], image.device, image.dtype, *_fingerprint(self.classifier))
        if self._copy is None or now != self._made_for:
            self._copy, self._made_for = canonical(self.classifier, image[:1]), now
        return self._copy


def canonical(network: nn.Module, image: Image) -> Canonical:
    """A frozen copy in evaluation mode, rewritten for images of this size; the network stays as it is.

    Every operation is a module of its own: a sum of activations a `Sum`, a mean a `Mean`, a product of
    an activation with a gate (squeeze-and-excitation) or a constant `HeldFixed`, so that no gradient passes through
    gates. Batch norm is part of the convolution that it alone follows. Dropout is gone.

    Raises:
        UnsuitableError: the network cannot be copied or traced, or the copy does not compute the same on the image.
    """
    with torch.inference_mode(False), torch.no_grad():
        image = image.clone()
        with frozen(network):
            expected = network(image)
        try:
            twin = copy.deepcopy(network).eval().requires_grad_(False)
            _split_fused_norms(twin)
            with _symbols_allowed():
                graph = ShapeTracer(image.clone()).trace(twin)
            rewriting = Rewriting(graph, twin)
        except Exception as error:  # whatever a stranger's forward raises when it meets symbols
            reason = " ".join(str(error).split())
            raise UnsuitableError(
                f"The network cannot be rewritten for this method ({type(error).__name__}: {reason}); {ALTERNATIVES}."
            ) from error
        found = Canonical(rewriting.network, rewriting.head, rewriting.foreign)
        _require_equal(found.network(image), expected)
    return found


@contextmanager
def _symbols_allowed() -> Iterator[None]:
    """No jaxtyping checks: networks that check their arguments would refuse symbols."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _require_equal(found: Any, expected: Any) -> None:
    if not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
        raise UnsuitableError(f"The network returns a {type(expected).__name__}, not a tensor; {ALTERNATIVES}.")
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-3))
    if not error <= 1e-4:
        raise UnsuitableError(
            f"The network, rewritten for this method, computes something else (relative difference {error:.2g}); "
            f"{ALTERNATIVES}."
        )


def _fingerprint(network: nn.Module) -> Iterator[Any]:
    """What changes when the network does; the sums notice even a change through `.data`, which no version counts."""
    yield from map(type, network.modules())
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    yield from (tensor.data_ptr() for tensor in tensors)
    if tensors:
        yield from torch.stack([tensor.double().sum() for tensor in tensors]).tolist()


def _split_fused_norms(network: nn.Module) -> None:
    """Normalisations with an activation inside, as timm's BatchNormAct2d, become the two in sequence."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and list(child.children()):
                plain = copy.copy(child)
                plain.__class__ = next(c for c in type(child).__mro__ if c.__module__.startswith("torch.nn.modules."))
                plain._modules = {}
                setattr(parent, name, nn.Sequential(plain, *child.children()))
