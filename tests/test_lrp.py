"""LRP and excitation backpropagation: conservation, closed forms, zennit on plain networks, refusals."""

import builtins
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import zennit.composites
from attributor_promises import LABELS, SIZE, Promises, SmallNet, calibrated, random_images
from torch import Tensor, nn

from cfxai.attribution.gradients import InputXGradient
from cfxai.attribution.lrp import LRP, RULES, ExcitationBackprop
from cfxai.attribution.targets import Contrast
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.nn.classifiers import compact, timm_classifier
from cfxai.protocols import Attributor

# Units of so small a random network may lack contributions of one sign, which conservation needs.
ATTRIBUTORS: dict[str, Callable[[nn.Module], Attributor]] = {
    "epsilon": partial(LRP, rule="epsilon", epsilon=1e-3, tolerance=1.0),
    **{rule: partial(LRP, rule=rule, tolerance=1.0) for rule in RULES if rule != "epsilon"},
    "excitation_backprop": ExcitationBackprop,
}
STABLE = [rule for rule in RULES if rule != "epsilon"]


@pytest.mark.parametrize("make", ATTRIBUTORS.values(), ids=ATTRIBUTORS)
class TestEveryAttributor(Promises):
    pass


def plain(bias: bool) -> nn.Module:
    """Convolutions, ReLUs and linear layers in sequence: what zennit handles as it is."""
    torch.manual_seed(2)
    convolutions = (nn.Conv2d(1, 6, 3, stride=2, bias=bias), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=bias), nn.ReLU())
    linear = (nn.Linear(8 * 9 * 7, 12, bias=bias), nn.ReLU(), nn.Linear(12, 3, bias=bias))
    return nn.Sequential(*convolutions, nn.Flatten(), *linear)


def due(network: nn.Module, image: Tensor, labels: Tensor, head: nn.Linear) -> Tensor:
    """The score without the last layer's bias: what is shared out."""
    with torch.no_grad():
        score = network(image).gather(1, labels[:, None])[:, 0]
        return score if head.bias is None else score - head.bias[labels]


@pytest.mark.parametrize(
    ("rule", "composite"),
    [
        ("epsilon_plus", zennit.composites.EpsilonPlus),
        ("epsilon_plus_flat", zennit.composites.EpsilonPlusFlat),
        ("alpha2_beta1", zennit.composites.EpsilonAlpha2Beta1),
        ("alpha2_beta1_flat", zennit.composites.EpsilonAlpha2Beta1Flat),
    ],
)
def test_is_zennit_on_a_plain_network(rule: str, composite: Callable[..., Any]) -> None:
    network, image = plain(bias=True), random_images()
    leaf = image.clone().requires_grad_()
    with composite(zero_params=["bias"]).context(network) as propagating:
        output = propagating(leaf)
        seed = torch.zeros_like(output).scatter(1, LABELS[:, None], due(network, image, LABELS, network[-1])[:, None])
        (expected,) = torch.autograd.grad(output, leaf, seed)
    found = LRP(network, rule=rule).attribute(image, LABELS)
    assert (found - expected[:, 0]).abs().max() < 2e-3 * expected.abs().max()  # zennit stabilises the last layer too


def test_epsilon_without_biases_is_input_x_gradient() -> None:
    network, image = plain(bias=False), random_images()
    expected = InputXGradient(network, baseline=0.0).attribute(image, LABELS)
    found = LRP(network, rule="epsilon", epsilon=1e-9).attribute(image, LABELS)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_network_keeps_each_pixels_part_whatever_the_sign_of_the_score(rule: str) -> None:
    """w x of each pixel, also where the score is negative: the map is not turned upside down."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    image, target = random_images(4, (4, 4)), torch.ones(4, dtype=torch.long)
    expected = image[:, 0] * network[1].weight[1].view(4, 4)
    assert (expected.flatten(1).sum(1) < 0).any()
    found = LRP(network, rule=rule).attribute(image, target)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rule", STABLE)
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (compact, (16, 16)),
        (lambda: timm_classifier("test_resnet"), (32, 32)),
        (lambda: compact(dims=3), (8, 8, 8)),
    ],
    ids=["ours", "timm", "volumes"],
)
def test_relevance_is_conserved(make: Callable[[], nn.Module], size: tuple[int, ...], rule: str) -> None:
    torch.manual_seed(0)
    network, image, target = make(), random_images(2, size), torch.tensor([0, 1])
    network = calibrated(network, *size)
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    relevance = LRP(network, rule=rule).attribute(image, target)
    assert torch.allclose(relevance.flatten(1).sum(1), due(network, image, target, head), atol=0.002)


class NearlyCancels(nn.Module):
    """Reads pixel 2 plus -0.99 times pixel 1, two branches of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.here, self.left = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
        self.head = nn.Linear(4, 2, bias=False)
        self.here.weight.data = torch.ones(1, 1, 1, 1)
        self.left.weight.data = torch.tensor([-0.99, 0, 0]).view(1, 1, 1, 3)
        self.head.weight.data = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 0]])

    def forward(self, image: Tensor) -> Tensor:
        return self.head((self.here(image) + self.left(image)).relu().flatten(1))


def test_branches_that_nearly_cancel_do_not_blow_relevance_up() -> None:
    image, label = torch.ones(1, 1, 1, 4), torch.tensor([1])
    steady = LRP(NearlyCancels(), rule="epsilon_plus").attribute(image, label)
    assert torch.allclose(steady, torch.tensor([[[0, 0, 0.01, 0]]]), atol=1e-4), "only what speaks for the sum"
    by_value = LRP(NearlyCancels(), rule="epsilon").attribute(image, label)
    assert torch.allclose(by_value, torch.tensor([[[0, -0.99, 1.0, 0]]]), atol=1e-3), "in proportion to the value"


def test_the_last_layers_bias_does_not_turn_a_map_upside_down() -> None:
    """As it does where relevance starts as the score: what speaks for a class speaks for it below any threshold."""
    image = torch.full((1, 1, 4, 4), 0.5)
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    for parameter, value in zip(network.parameters(), (1.0, 0.0, 1.0, -20.0), strict=True):
        nn.init.constant_(parameter, value)
    assert network(image) < 0
    assert torch.allclose(LRP(network).attribute(image, torch.tensor([1])), image[:, 0], atol=1e-4)


def test_a_contrast_starts_from_both_scores() -> None:
    torch.manual_seed(0)
    network, image = calibrated(SmallNet(), *SIZE), random_images()
    maps = [LRP(network).attribute(image, torch.full((3,), k)) for k in (2, 0)]
    assert torch.allclose(LRP(network).attribute(image, Contrast(2, 0)), maps[0] - maps[1], atol=1e-5)


def test_the_score_of_no_logit_is_nothing() -> None:
    network = calibrated(SmallNet(outputs=1), *SIZE)
    assert not LRP(network).attribute(random_images(), torch.zeros(3, dtype=torch.long)).any()


def test_excitation_is_a_probability() -> None:
    torch.manual_seed(0)
    network, image = calibrated(compact(), 16, 16), random_images(2, (16, 16))
    found = ExcitationBackprop(network).attribute(image, torch.tensor([0, 1]))
    assert found.min() >= 0
    assert torch.allclose(found.flatten(1).sum(1), torch.ones(2))
    both = ExcitationBackprop(network).attribute(image, Contrast(1, 0))
    assert both.min() < 0 < both.max()


def test_excitation_of_two_layers_is_the_formula() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False))
    image = random_images(3, (3, 3)).abs()
    first, second = (network[i].weight.detach().clamp_min(0) for i in (1, 3))
    pixels, hidden = image.flatten(1), network[:3](image).detach()
    winner = hidden * second[LABELS]
    winner = winner / winner.sum(1, keepdim=True)
    share = pixels[:, None] * first / (pixels @ first.T)[:, :, None]  # [b hidden pixel]
    expected = torch.einsum("bh,bhp->bp", winner, share).view(3, 3, 3)
    assert torch.allclose(ExcitationBackprop(network).attribute(image, LABELS), expected, atol=1e-4)


def test_relevance_that_is_not_conserved_is_refused_with_the_number() -> None:
    """Units that only negative weights reach have no positive contributions to share out."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    nn.init.constant_(network[0].weight, -1.0)
    with pytest.raises(UnsuitableError, match=r"lrp: relevance is not conserved.* 0 arrived .*integrated_gradients"):
        LRP(network).attribute(random_images(2).abs(), torch.tensor([0, 1]))


def test_transformers_are_refused_by_what_has_no_rule() -> None:
    network = timm_classifier("test_vit").eval()
    size = (160, 160)
    for method in (LRP(network), ExcitationBackprop(network)):
        with pytest.raises(UnsuitableError, match=r"no rule for .*; use integrated_gradients, rise or occlusion"):
            method.attribute(random_images(1, size), torch.tensor([1]))


def test_an_unknown_rule_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="epsilon_plus"):
        LRP(nn.Identity(), rule="epsilon_pls")


def test_without_zennit_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "zennit":
            raise ModuleNotFoundError(name=name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'cfxai\[lrp\]'"):
        LRP(nn.Identity())
