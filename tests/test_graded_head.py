"""The head that the autoencoder's code is read by, told grades in their order."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit
from toy_autoencoder import blobs, stirred, toy_method

from cfxai.errors import ConfigError, DataError
from cfxai.losses import ordinal_cross_entropy
from cfxai.nn.ordinal_head import OrdinalHead

logits = st.floats(-20, 20)


@given(st.lists(st.tuples(logits, logits, logits, st.integers(0, 3)), min_size=1, max_size=6))
def test_grades_cost_what_each_threshold_costs(rows: list[tuple[float, float, float, int]]) -> None:
    said, grade = torch.tensor([row[:3] for row in rows], dtype=torch.float64), torch.tensor([row[3] for row in rows])
    expected = [-log_expit(z if g > k else -z) for *zs, g in rows for k, z in enumerate(zs)]
    assert float(ordinal_cross_entropy(said, grade)) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)


def test_of_two_grades_it_is_the_cross_entropy_of_labels() -> None:
    torch.manual_seed(0)
    said, label = torch.randn(8, 1), torch.tensor([0, 1] * 4)
    both = torch.cat([torch.zeros_like(said), said], 1)
    torch.testing.assert_close(ordinal_cross_entropy(said, label), F.cross_entropy(both, label))


def test_one_direction_and_a_threshold_between_any_two_grades() -> None:
    head = OrdinalHead(5, 4)
    z = torch.randn(3, 5)
    said = head(z)
    assert said.shape == (3, 3)
    apart = said[:, :-1] - said[:, 1:]
    torch.testing.assert_close(apart, apart[:1].expand(3, 2))
    assert (apart > 0).all()


def test_the_head_is_told_grades_in_place_of_labels() -> None:
    method = toy_method(loss={"head": 0.5}, grades=3, steps=100)
    stirred(method.autoencoder)
    batch = blobs(0)
    batch["grade"] = torch.arange(len(batch["label"])) % 3
    terms = next(iter(method.losses(batch, 25)))[1]
    said = method.modules["head"](method.autoencoder.encode(batch["image"]))
    assert said.shape[1] == 2
    expected = 0.5 * 0.75 * float(ordinal_cross_entropy(said, batch["grade"]).detach())
    assert float(terms["head"]) == pytest.approx(expected, rel=1e-4)


def test_what_it_cannot_be_told_is_refused() -> None:
    with pytest.raises(DataError, match=r"no grades, which method\.autoencoder\.grades"):
        next(iter(toy_method(loss={"head": 1.0}, grades=3).losses(blobs(0), 0)))
    with pytest.raises(ConfigError, match=r"method\.autoencoder\.grades: must be null, or 2 or more"):
        toy_method(grades=1)
