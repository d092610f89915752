"""Localisation and sparseness of maps against scikit-learn, slow loops and closed forms."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cfxai.errors import ConfigError
from cfxai.metrics.localisation import Localisation
from cfxai.metrics.sparseness import Sparseness
from cfxai.protocols import Metric, Result

SIZE = (5, 6)


def result(saliency: Tensor, truth: Tensor | None, label: list[int] | None = None) -> Result:
    n = len(saliency)
    return Result(
        image=torch.zeros(n, 1, *saliency.shape[1:]),
        label=torch.tensor(label or [1] * n),
        saliency=saliency,
        mask=saliency > 0.5,
        group=tuple(f"p{i}" for i in range(n)),
        probability=torch.full((n, 2), 0.5),
        truth=truth,
    )


def localised(saliency: Tensor, truth: Tensor | None, label: list[int] | None = None, top: float = 0.1) -> Any:
    metric = Localisation(top=top)
    metric.update(result(saliency, truth, label))
    return metric.compute()


def sparse(saliency: Tensor, label: list[int] | None = None) -> Any:
    metric = Sparseness()
    metric.update(result(saliency, None, label))
    return metric.compute()


def drawn(seed: int, levels: int) -> tuple[Tensor, Tensor]:
    """A map of few levels, hence with ties, and a lesion."""
    random = torch.Generator().manual_seed(seed)
    saliency = torch.randint(0, levels, (1, *SIZE), generator=random) / (levels - 1)
    truth = torch.rand(1, *SIZE, generator=random) < 0.3
    truth[0, 0, 0] = True
    return saliency, truth


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 1000]))
def test_numbers_are_those_of_a_slow_loop(seed: int, levels: int) -> None:
    """Of tied pixels the mean over random orders counts, which many shuffles approach."""
    saliency, truth = drawn(seed, levels)
    s, t = saliency.flatten().numpy(), truth.flatten().numpy()
    found = localised(saliency, truth)
    assert found["relevance_mass"] == pytest.approx(sum(s[t]) / sum(s) if sum(s) else 0, rel=1e-5)
    random = np.random.default_rng(seed)
    for name, count in (("relevance_rank", int(t.sum())), ("top_intersection", 3)):
        shares = []
        for _ in range(400 if levels < 1000 else 1):
            shuffle = random.permutation(s.size)
            shares.append(t[shuffle][np.argsort(-s[shuffle], kind="stable")[:count]].mean())
        assert found[name] == pytest.approx(np.mean(shares), abs=0.13 if levels < 1000 else 1e-6)
    if not t.all():
        assert found["pixel_auroc"] == pytest.approx(roc_auc_score(t, s))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.floats(0.3, 3), scale=st.floats(0.1, 1))
def test_ranks_do_not_mind_a_monotone_rescaling(seed: int, power: float, scale: float) -> None:
    saliency, truth = drawn(seed, 7)
    rescaled = scale * (torch.arange(7) / 6) ** power
    first, again = localised(saliency, truth), localised(rescaled[(6 * saliency).round().long()], truth)
    for name in ("relevance_rank", "top_intersection", "pixel_auroc"):
        assert first[name] == pytest.approx(again[name])


def test_a_perfect_map_and_its_opposite() -> None:
    _, truth = drawn(1, 2)
    assert set(localised(truth.float(), truth, top=0.01).values()) == {1.0, None}
    opposite = localised((~truth).float(), truth, top=0.01)
    assert [opposite[name] for name in ("relevance_mass", "top_intersection", "pixel_auroc")] == [0, 0, 0]


def test_a_map_of_zeros_is_no_hit() -> None:
    _, truth = drawn(2, 2)
    found = localised(torch.zeros(1, *SIZE), truth)
    assert found["relevance_mass"] == 0
    assert found["relevance_rank"] == found["top_intersection"] == pytest.approx(float(truth.float().mean()))
    assert found["pixel_auroc"] == 0.5


def test_images_without_a_lesion_count_nowhere() -> None:
    saliency, truth = drawn(3, 50)
    alone = localised(saliency, truth)
    both = torch.cat([saliency, saliency, saliency])
    empty = torch.zeros_like(truth)
    assert localised(both, torch.cat([truth, empty, truth]), [1, 1, 0]) == alone
    assert set(localised(saliency, empty).values()) == {None}
    assert set(localised(saliency, None).values()) == {None}
    full = localised(saliency, torch.ones_like(truth))
    assert (full["relevance_mass"], full["pixel_auroc"]) == (pytest.approx(1), None)


def test_means_over_images_and_intervals_over_patients() -> None:
    """Volumes count as pictures do."""
    saliency, truth = torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4, dtype=torch.bool)
    truth[:, 0, 0, 0] = saliency[0, 0, 0, 0] = saliency[1, 1, 1, 1] = True
    found = localised(saliency, truth)
    assert found["relevance_mass"] == 0.5
    assert found["relevance_mass_ci"] == [0, 1]


def test_gini_and_complexity_by_formula() -> None:
    saliency = torch.tensor([[[0.1, 0.4], [0.2, 1.0]]])
    x = saliency.flatten().tolist()
    differences = sum(abs(a - b) for a in x for b in x)
    entropy = -sum(a / sum(x) * math.log(a / sum(x)) for a in x)
    found = sparse(saliency)
    assert found["gini"] == pytest.approx(differences / (2 * 4 * sum(x)))
    assert found["complexity"] == pytest.approx(entropy / math.log(4))


def test_the_extremes_of_sparseness() -> None:
    even, single = torch.full((1, *SIZE), 0.4), torch.zeros(1, *SIZE)
    single[0, 2, 2] = 0.1
    assert (sparse(even)["gini"], sparse(even)["complexity"]) == pytest.approx((0, 1), abs=1e-6)
    assert (sparse(single)["gini"], sparse(single)["complexity"]) == pytest.approx((29 / 30, 0), abs=1e-6)
    assert set(sparse(torch.zeros(1, *SIZE)).values()) == {None}
    mixed = sparse(torch.cat([even, single, torch.zeros(1, *SIZE)]), [0, 1, 1])
    assert mixed["gini"] == pytest.approx(29 / 30)


@pytest.mark.parametrize("make", [Localisation, Sparseness])
def test_without_images_all_is_none(make: Callable[[], Metric]) -> None:
    assert isinstance(make(), Metric)
    assert set(make().compute().values()) == {None}


def test_a_share_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"localisation.top: 0 must lie in \(0, 1\]"):
        Localisation(top=0)
