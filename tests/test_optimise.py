"""Search for the nearest counterfactual, against classifiers whose nearest point is known."""

import pytest
import torch
from torch import Tensor, nn

from cfxai.errors import ConfigError
from cfxai.methods.optimise import Optimise, Search
from cfxai.protocols import Explainer, Method


class Brightness(nn.Module):
    """Abnormal by the brightness of the upper half; nothing else counts."""

    def forward(self, image: Tensor) -> Tensor:
        z = 10 * image[:, :, :4].mean((1, 2, 3))
        return torch.stack([-z, z], 1)


def test_the_answer_is_the_nearest_point_of_the_margin() -> None:
    normal = torch.tensor([3.0, 4.0]) / 5
    start = torch.tensor([[2.0, 1.0], [0.5, -0.2]], requires_grad=True)

    def classifier(x: Tensor) -> Tensor:
        return torch.stack([-(x @ normal), x @ normal], 1)

    search = Search(margin=1.0, weight=0.1, rounds=4, steps=400, learning_rate=0.01, patience=400)
    target = torch.zeros(2, dtype=torch.long)
    found = search(start, lambda x, rows: x, classifier, target, lambda change: change.norm(dim=1))
    expected = start - ((start @ normal) + 0.5)[:, None] * normal  # the lead is -2 x.n; it shall be 1
    assert torch.allclose(found, expected, atol=0.1)


def test_it_flips_where_it_counts_and_leaves_the_rest_and_the_classifier_alone() -> None:
    classifier = Brightness()
    method = Optimise(classifier)
    assert isinstance(method, Explainer)
    assert isinstance(method, Method)
    image = torch.full((2, 1, 8, 8), 0.2)
    image[1] = -0.2
    target = torch.tensor([0, 1])
    found = method.generate(image, target)
    assert (classifier(found.counterfactual).argmax(1) == target).all()
    assert torch.equal(found.image, image)
    upper, lower = found.difference[:, :4].mean(), found.difference[:, 4:].mean()
    assert upper > 4 * lower
    assert 0.1 < upper < 0.2  # 0.11 of the range, half of 0.2 + 2.2 / 20, is the least that reaches the margin


def test_what_cannot_be_reached_is_approached() -> None:
    class Stubborn(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            z = 5 + image.mean((1, 2, 3))
            return torch.stack([-z, z], 1)

    found = Optimise(Stubborn(), weight=1.0, rounds=2, steps=30).generate(torch.zeros(1, 1, 4, 4), torch.tensor([0]))
    assert found.counterfactual.mean() < -0.3


def test_each_image_is_searched_for_by_itself() -> None:
    method = Optimise(Brightness(), rounds=2, steps=20)
    image = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(3, dtype=torch.long)
    together = method.generate(image, target).counterfactual
    assert torch.allclose(together[1:2], method.generate(image[1:2], target[1:2]).counterfactual, atol=1e-5)


def test_no_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="rounds and steps"):
        Optimise(nn.Identity(), rounds=0)
    with pytest.raises(ConfigError, match="patience"):
        Optimise(nn.Identity(), patience=-1)


def test_images_that_arrived_are_left_at_that() -> None:
    asked: list[list[int]] = []

    def decode(x: Tensor, rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return x

    def classifier(x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0]], 1)

    search = Search(margin=0.0, weight=1.0, rounds=2, steps=100, learning_rate=0.1, patience=0)
    start, target = torch.tensor([[-1.0], [0.45], [2.05]]), torch.zeros(3, dtype=torch.long)
    found = search(start, decode, classifier, target, lambda change: change.abs().sum(1))
    asked_for = [sum(row in rows for rows in asked) for row in range(3)]
    assert asked_for[:2] == [1, 6]  # there already, and five steps away
    assert 22 <= asked_for[2] == len(asked) <= 24
    assert torch.equal(found[0], start[0])
    assert (found[1:] <= 0).all()
    assert (found[1:] > -0.1).all()
