"""Adam without a first moment, against torch's Adam with beta1 = 0."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cfxai.nn.adam import AdamWithoutMomentum


def parameters(dtype: torch.dtype = torch.float64, *, channels_last: bool = False) -> list[nn.Parameter]:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last) if channels_last else weight
    return [nn.Parameter(weight), nn.Parameter(torch.randn(5, dtype=dtype))]


def trained(
    make: Callable[[list[nn.Parameter]], Optimizer], own: list[nn.Parameter], steps: int, scale: float = 1.0
) -> list[Tensor]:
    optimizer = make(own)
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        for p in own:
            p.grad = scale * torch.randn(p.shape, generator=random, dtype=torch.float64).to(p)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)  # as a schedule would
        optimizer.step()
    return [p.detach() for p in own]


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 6),
    beta2=st.floats(0.5, 0.9999),
    eps=st.sampled_from([1e-8, 1e-2]),
    scale=st.sampled_from([0.0, 1e-9, 1.0, 1e9]),
    channels_last=st.booleans(),
)
def test_it_steps_as_adam(steps: int, beta2: float, eps: float, scale: float, channels_last: bool) -> None:
    found = trained(
        lambda own: AdamWithoutMomentum(own, 0.1, beta2, eps), parameters(channels_last=channels_last), steps, scale
    )
    expected = trained(lambda own: Adam(own, 0.1, (0.0, beta2), eps), parameters(), steps, scale)
    torch.testing.assert_close(found, expected)


def test_it_keeps_one_moment() -> None:
    own = parameters()
    optimizer = AdamWithoutMomentum(own, 0.1, 0.999)
    trained(lambda _: optimizer, own, 1)
    for p in own:
        assert sum(value.numel() for value in optimizer.state[p].values()) == p.numel() + 1


def test_a_parameter_without_a_gradient_stays() -> None:
    own = parameters()
    optimizer, before = AdamWithoutMomentum(own, 0.1, 0.999), own[1].detach().clone()
    own[0].grad = torch.ones_like(own[0])
    optimizer.step()
    assert torch.equal(own[1], before)
    assert own[1] not in optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restored_from_the_standard_layout_it_continues_bit_for_bit(dtype: torch.dtype) -> None:
    """As a checkpoint stores it, while the weights are channels-last."""
    own, other = (parameters(dtype, channels_last=True) for _ in range(2))
    first, second = (AdamWithoutMomentum(each, 0.1, 0.9) for each in (own, other))
    trained(lambda _: first, own, 3)
    state = first.state_dict()
    state["state"] = {
        index: {key: value.clone().contiguous() for key, value in slots.items()}
        for index, slots in state["state"].items()
    }
    second.load_state_dict(state)
    for a, b in zip(own, other, strict=True):
        b.data.copy_(a.data)
    for found, expected in zip(trained(lambda _: second, other, 3), trained(lambda _: first, own, 3), strict=True):
        assert torch.equal(found, expected)
