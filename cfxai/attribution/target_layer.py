"""The layer whose activation maps a CAM method weighs."""

from contextlib import ExitStack, suppress
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cfxai.attribution.layouts import Layout, Tokens, layout
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.nn.autocast import widened
from cfxai.nn.features import trace
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Target


class TargetLayer:
    """A network's layer by name, or its last one with maps of more than one position.

    Tokens of a vision transformer count where their patches reach the output: where the class token alone does, the
    last such layer is what the last attention reads. Of a segmentation network, the last of its coarsest layers, as
    in Seg-Grad-CAM (Vinogradova et al. 2020, arXiv:2002.11434): the last of all is its output.

    Args:
        classifier: the network under explanation; it may be trained further later.
        name: as in `classifier.named_modules()`; None = found with the first image.

    Raises:
        ConfigError: (on the first image) no such layer, or one without maps.
        UnsuitableError: (on the first image) a network whose positions end as tokens or channels-last maps of unknown
            layout, for which a CAM over dimension 1 would be silently wrong.
    """

    def __init__(self, classifier: nn.Module, name: str | None = None) -> None:
        self.classifier, self.name = classifier, name
        self._module: nn.Module | None = None
        self._layout: Layout

    def read(self, image: Image) -> tuple[Tensor, Tensor]:
        """The layer's maps [b c *small], a leaf of the graph if gradients are on, and the output made from them."""
        maps: list[Tensor] = []

        def cut(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            maps[:] = [widened(self._layout.maps(output).detach()).requires_grad_(torch.is_grad_enabled())]
            # A clone: the next layer may work in place, which is forbidden on a leaf.
            return self._layout.output(maps[0].clone().to(output.dtype), output.detach())

        with self._found(image).register_forward_hook(cut):
            output = widened(self.classifier(image))
        return maps[0], output

    def differentiate(self, image: Image, target: Target) -> tuple[Tensor, Tensor, Float[Tensor, " b"]]:
        """The layer's maps, the gradient of each image's score with respect to them, and the scores; all detached.

        Raises:
            UnsuitableError: the scores do not depend on the layer.
        """
        with torch.enable_grad():
            maps, output = self.read(image)
            score = target.score(output)
            (gradient,) = torch.autograd.grad(score.sum(), maps, allow_unused=True) if score.requires_grad else (None,)
        if gradient is None:
            raise UnsuitableError(f"layer: the target does not depend on '{self.name}'; name a layer on the way to it.")
        return maps.detach(), gradient, score.detach()

    def resume(self, image: Image, maps: Tensor) -> Tensor:
        """The network's output [n …] for one image, had its layer given each of these maps [n c *small]."""

        def replace(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            return self._layout.output(maps.clone().to(output.dtype), output)

        with self._found(image).register_forward_hook(replace):
            with suppress(RuntimeError):  # of what passes the layer by, as in a U-Net, and meets n images as one
                output = self.classifier(image)  # what comes before the layer runs once
                if len(output) == len(maps):
                    return widened(output)
            return widened(self.classifier(image.expand(len(maps), *image.shape[1:])))

    def _found(self, image: Image) -> nn.Module:
        if self._module is None:
            with frozen(self.classifier), torch.inference_mode(False):
                self.name, self._layout = self._find(image[:1].clone())
            self._module = self.classifier.get_submodule(self.name)
        return self._module

    def _find(self, image: Image) -> tuple[str, Layout]:
        outputs = {name: shape for name, shape in trace(self.classifier, image) if shape[2:].numel() > 1}
        layouts = {name: layout(self.classifier, shape, image.shape) for name, shape in outputs.items()}
        known = {name: found for name, found in layouts.items() if found is not None}
        silent = self._silent(image, [name for name, found in known.items() if isinstance(found, Tokens)])
        known = {name: found for name, found in known.items() if name not in silent}
        listed = ", ".join(known) or "none"
        if self.name in known:
            return self.name, known[self.name]
        if self.name is not None:
            raise ConfigError(f"layer: '{self.name}' is not a layer with spatial maps; this classifier has {listed}.")
        if not known or list(layouts.values())[-1] is None:
            raise UnsuitableError(
                "layer: this classifier does not end in spatial maps, as CAM methods need (a transformer of unknown "
                f"layout?); use integrated_gradients, rise or occlusion, or name one of its layers with maps: {listed}."
            )
        positions = {name: found.maps(torch.empty(outputs[name], device="meta"))[0, 0] for name, found in known.items()}
        with torch.no_grad():
            segments = self.classifier(image).ndim > 2
        coarsest = min(one.numel() for one in positions.values())
        name = [name for name, one in positions.items() if not segments or one.numel() == coarsest][-1]
        return name, known[name]

    def _silent(self, image: Image, names: list[str]) -> set[str]:
        """Those of the token layers whose patches do not reach the output, as after a ViT's last attention."""
        if not names:
            return set()
        kept: dict[str, Tensor] = {}

        def keep(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
            kept[name] = output

        with ExitStack() as hooks, torch.enable_grad():
            for name in names:
                module = self.classifier.get_submodule(name)
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
            output = self.classifier(image.requires_grad_())
            gradients = torch.autograd.grad(output.square().sum(), [kept[name] for name in names], allow_unused=True)
        found = {name: layout(self.classifier, kept[name].shape, image.shape) for name in names}
        return {
            name
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is None or not (positions := found[name]) or not positions.maps(gradient).any()
        }


def upsample(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps [n *small] as large as `size`, by linear interpolation (half-pixel centres)."""
    return F.interpolate(maps[:, None], size=size, mode=("linear", "bilinear", "trilinear")[len(size) - 1])[:, 0]
