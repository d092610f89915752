"""Gradients that pass a ReLU in a way of their own."""

from contextlib import ExitStack

from torch import Tensor, nn

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.gradients import input_gradient
from cfxai.errors import UnsuitableError
from cfxai.nn.canonical import ALTERNATIVES, CanonicalCopy
from cfxai.protocols import Image, Labels, Target


class GuidedBackprop(Channelwise):
    """The gradient in which a ReLU lets pass only what is positive, forwards as well as backwards.

    Springenberg et al. 2014, arXiv:1412.6806. The rule is stated for ReLUs; with others it would silently be the plain
    gradient.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D; its activations are ReLUs.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; of these only `sum` keeps the sign.

    Raises:
        UnsuitableError: (when asked) there are no ReLUs, or others too, or the network cannot be traced.
    """

    name = "guided_backprop"

    def __init__(self, classifier: nn.Module, *, channels: str = "sum") -> None:
        super().__init__(channels)
        self.copy = CanonicalCopy(classifier)

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        network = self.copy.of(image).network
        activations = [m for m in network.modules() if type(m).__module__ == "torch.nn.modules.activation"]
        others = sorted({type(m).__name__ for m in activations if not isinstance(m, nn.ReLU)})
        if others or not activations:
            has = ", ".join(others) or "no ReLU"
            raise UnsuitableError(f"{self.name}: its rule is for ReLUs, and this network has {has}; {ALTERNATIVES}.")
        with ExitStack() as hooks:
            for relu in activations:
                hooks.enter_context(relu.register_forward_hook(self.pass_relu))
            return input_gradient(network, image, target)

    @staticmethod
    def pass_relu(_relu: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output with which the network goes on, its gradient changed."""
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp_min(0))
        return output


class Deconvnet(GuidedBackprop):
    """The gradient in which a ReLU lets pass what is positive backwards, whatever it did forwards.

    Zeiler and Fergus 2014, arXiv:1311.2901. Arguments and errors as of `GuidedBackprop`.
    """

    name = "deconvnet"

    @staticmethod
    def pass_relu(_relu: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (entered,) = args
        return GuidedBackprop.pass_relu(_relu, args, entered + (output - entered).detach())
