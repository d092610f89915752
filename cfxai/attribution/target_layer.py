"""The layer whose activation maps a CAM method weighs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.nn.features import trace
from cfxai.protocols import Image, Logits


class TargetLayer:
    """A classifier's layer by name, or its last one with maps [b c *spatial] of more than one position.

    Args:
        classifier: the network under explanation; it may be trained further later.
        name: as in `classifier.named_modules()`; None = found with the first image.

    Raises:
        ConfigError: (on the first image) no such layer, one without maps, or a network whose positions end as tokens
            or channels-last maps (transformers), for which a CAM over dimension 1 would be silently wrong.
    """

    def __init__(self, classifier: nn.Module, name: str | None = None) -> None:
        self.classifier, self.name = classifier, name
        self._module: nn.Module | None = None

    def read(self, image: Image) -> tuple[Tensor, Logits]:
        """The layer's maps [b c *spatial], a leaf of the graph if gradients are on, and the logits made from them."""
        if self._module is None:
            self._module = self._find(image[:1])
        maps: list[Tensor] = []

        def cut(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            maps[:] = [output.detach().requires_grad_(torch.is_grad_enabled())]
            return maps[0].clone()  # the next layer may work in place, which is forbidden on a leaf

        with self._module.register_forward_hook(cut):
            logits = self.classifier(image)
        return maps[0], logits

    def _find(self, image: Image) -> nn.Module:
        outputs = [(name, shape) for name, shape in trace(self.classifier, image) if shape[2:].numel() > 1]
        candidates = [name for name, shape in outputs if _is_map(shape, image.shape)]
        listed = ", ".join(dict.fromkeys(candidates)) or "none"
        if self.name is not None and self.name not in candidates:
            raise ConfigError(f"layer: '{self.name}' is not a layer with spatial maps; this classifier has {listed}.")
        if self.name is None and (not candidates or candidates[-1] != outputs[-1][0]):
            raise ConfigError(
                "layer: this classifier does not end in spatial maps, as CAM methods need (a transformer?); "
                f"use the attributor rise, or name one of its layers with maps: {listed}."
            )
        self.name = self.name or candidates[-1]
        return self.classifier.get_submodule(self.name)


def upsample(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps [n *small] as large as `size`, by linear interpolation (half-pixel centres)."""
    return F.interpolate(maps[:, None], size=size, mode=("linear", "bilinear", "trilinear")[len(size) - 1])[:, 0]


def _is_map(shape: torch.Size, image: torch.Size) -> bool:
    """[b c *spatial] with strides that agree within a factor of two, which tells maps from channels-last ones."""
    if len(shape) != len(image):
        return False
    strides = [whole / part for whole, part in zip(image[2:], shape[2:], strict=True)]
    return max(strides) <= 2 * min(strides)
