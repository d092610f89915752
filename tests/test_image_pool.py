"""The memory of earlier fakes: what goes in comes out, of its own class, half of the time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfxai.errors import ConfigError
from cfxai.methods.image_pool import ImagePool


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_the_pool_shows_each_class_what_it_has_been_given_of_it(counts: list[int]) -> None:
    pool, made, given_before = ImagePool(4, 3, 1, 1), 0, {0: set(), 1: set(), 2: set()}
    for count in counts:
        values = torch.arange(made, made + count)
        made += count
        target = values % 3
        shown = pool.exchange(values.view(-1, 1, 1, 1).float(), target).flatten().long()
        for value, label in zip(values.tolist(), target.tolist(), strict=True):
            given_before[label].add(value)
        assert all(value in given_before[label] for value, label in zip(shown.tolist(), target.tolist(), strict=True))
    kept = [set(images.flatten().long()[:n].tolist()) for images, n in zip(pool.images, pool.taken, strict=True)]
    assert [len(one) for one in kept] == [min(4, len(seen)) for seen in given_before.values()]


def test_half_of_what_a_full_pool_shows_is_old() -> None:
    pool = ImagePool(50, 1, 1, 1)
    pool.exchange(torch.zeros(50, 1, 1, 1), torch.zeros(50, dtype=torch.long))
    shown = [pool.exchange(torch.full((1, 1, 1, 1), i + 1.0), torch.tensor([0])).item() == i + 1 for i in range(1000)]
    assert 0.45 < np.mean(shown) < 0.55


def test_a_pool_has_a_size() -> None:
    with pytest.raises(ConfigError, match=r"method\.pool\.size"):
        ImagePool(0, 2, 1, 16)
