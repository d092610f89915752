"""Layer-wise relevance propagation, by zennit's rules on the network's canonical copy."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cfxai.attribution.channels import Channelwise
from cfxai.attribution.gradients import input_gradient
from cfxai.config.nearest import hint
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.nn.canonical import ALTERNATIVES, Canonical, CanonicalCopy
from cfxai.nn.layer_kinds import AVERAGES, LINEAR, NORMS, POINTWISE, HeadInput, HeldFixed, Sum
from cfxai.protocols import Image, Labels, Target

RULES = ("epsilon", "epsilon_plus", "epsilon_plus_flat", "alpha2_beta1", "alpha2_beta1_flat")
Rules = Sequence[tuple[tuple[type, ...], Any]]
"""Kinds of layers and zennit's rule for them; the first that fits counts."""


class LRP(Channelwise):
    """The target's score, handed back from each layer to its inputs by what they contributed.

    Bach et al. 2015, PLoS ONE 10(7), e0130140, with the rules of Montavon et al. 2019 (Explainable AI, LNCS 11700,
    chapter 10) and Kohlbrenner et al. 2020 (arXiv:1910.09840):

    - `epsilon`: by z_ij / (z_j + epsilon) in all layers; on ReLU networks without biases, input x gradient. Unsteady
      in deep networks.
    - `epsilon_plus`: in convolutions by positive contributions alone (z+); in linear layers as `epsilon`.
    - `alpha2_beta1`: in convolutions by twice the positive ones minus the negative ones; in linear layers as `epsilon`.
    - `epsilon_plus_flat`, `alpha2_beta1_flat`: the same, but the first layer hands back evenly over its window.

    Relevance starts as what each feature before the last layer adds to the score, so that what speaks for a class is
    positive whatever the sign of its score. Biases get nothing. Sums of branches are shared out among those with
    the sign of the sum, under `epsilon` by value, as means are: by value, 1.00 and -0.99 would get a hundred times what
    came in, with opposite signs, which residual networks do from block to block. Activations and
    normalisations hand on what they get (identity rule: Achtibat et al. 2024, arXiv:2402.05602), products with a gate
    hand it to the gated. A map adds up to the score without the last layer's bias; one that does not is refused.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D; a convolutional network.
        rule: one of the above.
        epsilon: added to the size of z_j.
        tolerance: by which share of the relevance that starts a map's sum may miss it.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; only of `sum` relevance is conserved.

    Raises:
        ConfigError: no such rule, or zennit is not installed.
        UnsuitableError: (when asked) relevance is not conserved, attention, or the network cannot be traced.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        rule: str = "epsilon_plus",
        epsilon: float = 1e-6,
        tolerance: float = 0.1,
        channels: str = "sum",
    ) -> None:
        super().__init__(channels)
        _require_zennit()
        if rule not in RULES:
            raise ConfigError(f"rule: LRP has no rule '{rule}'{hint(rule, RULES)}; it has {', '.join(RULES)}.")
        self.copy = CanonicalCopy(classifier)
        self.rule, self.epsilon, self.tolerance = rule, epsilon, tolerance

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        canonical = _suitable(self.copy.of(image), "lrp")
        started: list[Tensor] = []

        def start(_mark: nn.Module, _args: object, features: Tensor) -> Tensor | None:
            if not features.requires_grad:
                return None
            value, features = features.detach(), features.clone()

            def relevance(gradient: Tensor) -> Tensor:
                started.append((gradient * value).reshape(len(value), -1))
                return gradient * value

            features.register_hook(relevance)
            return features

        with ExitStack() as hooks:
            for module in canonical.network.modules():
                if isinstance(module, HeadInput):
                    hooks.enter_context(module.register_forward_hook(start))
            hooks.enter_context(_propagating(canonical, self._rules(), self._first(), skip=canonical.head))
            parts = input_gradient(canonical.network, image, target)
        self._require_conserved(parts, torch.cat(started, 1) if started else parts.flatten(1))
        return parts

    def _rules(self) -> Rules:
        from zennit.core import BasicHook
        from zennit.rules import AlphaBeta, Epsilon, NoMod, Norm, ZPlus

        epsilon = Epsilon(self.epsilon, zero_params=["bias"])
        convolution = {
            "epsilon": epsilon,
            "epsilon_plus": ZPlus(zero_params=["bias"]),
            "alpha2_beta1": AlphaBeta(2, 1, zero_params=["bias"]),
        }[self.rule.removesuffix("_flat")]
        branches = Norm() if self.rule == "epsilon" else BasicHook([_shares], [NoMod(param_keys=[])])
        rest = [(AVERAGES, Norm()), ((nn.Linear,), epsilon), (LINEAR, convolution)]
        return [*_handing_on(), ((Sum,), branches), *rest]

    def _first(self) -> Any:
        from zennit.rules import Flat

        return Flat() if self.rule.endswith("_flat") else None

    def _require_conserved(self, parts: Image, started: Tensor) -> None:
        found, due = parts.flatten(1).sum(1), started.float().sum(1)
        # What nearly cancels, a score close to zero, is not asked to be exact to its own size.
        scale = torch.maximum(due.abs(), started.float().abs().sum(1) / 100)
        wrong = ~((found - due).abs() <= self.tolerance * scale)  # also where it is not a number
        if wrong.any():
            worst = int(wrong.nonzero()[0])
            steadier = "the rule epsilon_plus is steadier; or " if self.rule == "epsilon" else ""
            raise UnsuitableError(
                f"lrp: relevance is not conserved in this network, {float(due[worst]):.3g} started and "
                f"{float(found[worst]):.3g} arrived at the image; {steadier}{ALTERNATIVES}."
            )


class ExcitationBackprop(Channelwise):
    """The probability that a winner, drawn from layer to layer down from the target, is this pixel.

    Zhang et al. 2016, arXiv:1608.00507: drawn among a layer's inputs in proportion to their positive contributions;
    sums and means are shared out by their positive parts. What ends in units without any is lost, so that maps are
    scaled to a total of 1. Of a contrast of two classes, one's map minus the other's.

    Args:
        classifier: images in [-1, 1] to logits; 2-D or 3-D; a convolutional network.
        channels: `sum`, `abs`, `max` or `l2` over a pixel's channels; only of `sum` the total is 1.

    Raises:
        ConfigError: zennit is not installed.
        UnsuitableError: (when asked) attention, or the network cannot be traced.
    """

    def __init__(self, classifier: nn.Module, *, channels: str = "sum") -> None:
        super().__init__(channels)
        _require_zennit()
        self.copy = CanonicalCopy(classifier)

    def contributions(self, image: Image, target: Labels | Target) -> Image:
        from zennit.core import BasicHook
        from zennit.rules import NoMod, ZPlus

        canonical = _suitable(self.copy.of(image), "excitation_backprop")
        by_positive_part = BasicHook([lambda x: x.clamp(min=0)], [NoMod(param_keys=[])])
        rules = [*_handing_on(), ((Sum, *AVERAGES), by_positive_part), (LINEAR, ZPlus(zero_params=["bias"]))]
        with _propagating(canonical, rules):
            probability = input_gradient(canonical.network, image, target)
        total = probability.flatten(1).abs().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        return probability / total.view(-1, *[1] * (probability.ndim - 1))


def _shares(stacked: Tensor) -> Tensor:
    """What each summand of a `Sum` counts: its size if it has the sign of the sum, else nothing."""
    return (stacked * stacked.sum(-1, keepdim=True).sign()).clamp(min=0)


def _handing_on() -> Rules:
    from zennit.rules import Pass

    return [((HeldFixed, *POINTWISE, *NORMS), Pass())]


def _propagating(canonical: Canonical, rules: Rules, first: Any = None, *, skip: frozenset[str] = frozenset()) -> Any:
    """Within it, gradients of the network's output are relevance; `first` is the rule of its first linear layer."""
    from zennit.core import Composite

    def rule(seen: dict[str, bool], name: str, module: nn.Module) -> Any:
        if name in skip:
            return None
        if first is not None and isinstance(module, LINEAR) and not seen.get("first"):
            seen["first"] = True
            return first
        return next((rule for kinds, rule in rules if isinstance(module, kinds)), None)

    return Composite(rule).context(canonical.network)


def _suitable(canonical: Canonical, method: str) -> Canonical:
    if canonical.foreign:
        raise UnsuitableError(
            f"{method}: it has no rule for {', '.join(canonical.foreign)} in this network; {ALTERNATIVES}."
        )
    return canonical


def _require_zennit() -> None:
    try:
        import zennit  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError("LRP needs the package zennit; install it with: pip install 'cfxai[lrp]'.") from error
