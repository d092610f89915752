"""Deletion, insertion, ROAD and region flipping against closed forms, dense solves and slow loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor, nn
from toy import toy_coin

from cfxai.config.build import Parts
from cfxai.errors import ConfigError
from cfxai.judging import FAITHFULNESS, faithfulness_metrics, metric_factory
from cfxai.metrics.faithfulness import DeletionInsertion, Road
from cfxai.metrics.imputation import blurred, noisy_linear
from cfxai.metrics.region_flipping import RegionFlipping
from cfxai.protocols import Metric, Result
from cfxai.regions.grid import Grid

SIZE = (6, 8)
PIXELS = 48


class Linear(nn.Module):
    """Logits 0 and w.(x + 1) + b, so that a black pixel says nothing."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, image: Tensor) -> Tensor:
        z = ((image + 1) * self.weight).flatten(1).sum(1) + self.bias
        return torch.stack([torch.zeros_like(z), z], 1)


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def result(image: Tensor, saliency: Tensor, *, label: int | list[int] = 1, truth: Tensor | None = None) -> Result:
    n = len(image)
    labels = torch.tensor([label] * n if isinstance(label, int) else label)
    group = tuple(f"p{i // 2}" for i in range(n))
    return Result(image, labels, saliency, saliency > 0.5, group, torch.full((n, 2), 0.5), truth)


def measured(metric: Metric, *results: Result) -> dict[str, Any]:
    for one in results:
        metric.update(one)
    return metric.compute()


def flat_image(n: int = 1) -> Tensor:
    return torch.zeros(n, 1, *SIZE)


def test_deletion_and_insertion_of_a_linear_classifier_by_formula() -> None:
    weight = random(*SIZE) * 0.4
    classifier = Linear(weight, -4.0)
    found = measured(DeletionInsertion(classifier, steps=PIXELS), result(flat_image(), weight[None]))
    gone = np.concatenate([[0], np.cumsum(np.sort(weight.numpy().ravel())[::-1])])  # evidence of the first n pixels

    def area(evidence: np.ndarray) -> float:
        return float(np.trapezoid(1 / (1 + np.exp(-(evidence - 4))), dx=1 / PIXELS))

    assert found["deletion"] == pytest.approx(area(gone[-1] - gone), abs=1e-5)
    assert found["insertion"] == pytest.approx(area(gone), abs=1e-5)
    assert found["deletion_below_random"] > 0.05
    assert found["insertion_above_random"] > 0.05


def test_batched_curves_are_those_of_a_slow_loop() -> None:
    classifier, image, saliency = toy_coin().classifier, random(2, 1, *SIZE, seed=1) * 2 - 1, random(2, *SIZE, seed=2)
    found = measured(
        DeletionInsertion(classifier, steps=5, batch_size=7, baseline="blur"), result(image, saliency, label=[1, 0])
    )
    order = saliency[0].flatten().argsort(descending=True).tolist()
    areas = []
    for start, end in ((image[0], blurred(image)[0]), (blurred(image)[0], image[0])):
        heights = []
        for n in (0, 10, 19, 29, 38, 48):
            mixed = start.clone().flatten()
            for pixel in order[:n]:
                mixed[pixel] = end.flatten()[pixel]
            heights.append(float(classifier(mixed.view(1, 1, *SIZE)).softmax(1)[0, 1]))
        areas.append(np.trapezoid(heights, np.array([0, 10, 19, 29, 38, 48]) / PIXELS))
    assert [found["deletion"], found["insertion"]] == pytest.approx(areas, abs=1e-5)
    assert found["deletion_ci"] is None, "only one of the two is abnormal"


def test_a_constant_map_is_the_control() -> None:
    classifier, image = Linear(random(*SIZE), -20.0), random(4, 1, *SIZE, seed=3) * 2 - 1
    found = measured(DeletionInsertion(classifier, steps=7), result(image, torch.full((4, *SIZE), 0.3)))
    assert (found["deletion_below_random"], found["insertion_above_random"]) == (0, 0)
    assert found["deletion_below_random_ci"] == [0, 0]


@pytest.mark.parametrize("make", [DeletionInsertion, Road], ids=lambda make: make.__name__)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.5, 2.0, 3.0]))
def test_only_the_order_of_a_map_counts(make: Callable[..., Metric], seed: int, power: float) -> None:
    saliency = torch.randint(0, 9, (2, *SIZE), generator=torch.Generator().manual_seed(seed)) / 8  # with ties
    classifier, image = Linear(random(*SIZE, seed=seed) - 0.3, 0.0), random(2, 1, *SIZE, seed=seed + 1)
    first, again = (measured(make(classifier), result(image, s)) for s in (saliency, 0.7 * saliency**power))
    assert first == again


def test_batches_do_not_change_the_result_and_normal_images_do_not_count() -> None:
    classifier, image, saliency = toy_coin().classifier, random(4, 1, 16, 16), random(4, 16, 16, seed=1)
    for make in (DeletionInsertion, Road, lambda c: RegionFlipping(c, Grid(rows=2, columns=2))):
        whole = measured(make(classifier), result(image, saliency, label=[1, 0, 1, 0]))
        split = make(classifier)
        for i, label in enumerate((1, 0, 1, 0)):
            one = result(image[i : i + 1], saliency[i : i + 1], label=label)
            split.update(Result(**{**vars(one), "group": (f"p{i // 2}",)}))
        found = split.compute()
        assert all(found[name] == pytest.approx(value, abs=1e-6) for name, value in whole.items())
        assert set(measured(make(classifier), result(image, saliency, label=0)).values()) == {None}


def test_the_interval_is_over_patients() -> None:
    image = torch.cat([torch.full((2, 1, *SIZE), float(v)) for v in torch.linspace(-1, 1, 10)])
    classifier = Linear(torch.full(SIZE, 0.05), 0.0)

    def deletion(which: slice) -> dict[str, Any]:
        return measured(DeletionInsertion(classifier, steps=4), result(image[which], random(20, *SIZE)[which]))

    found, areas = deletion(slice(20)), [deletion(slice(i, i + 1))["deletion"] for i in range(20)]
    patients = np.reshape(areas, (10, 2)).mean(1)
    draws = np.random.default_rng(5).choice(patients, (20000, 10)).mean(1)
    assert found["deletion"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert found["deletion_ci"] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.01)


def test_imputed_pixels_solve_the_papers_equations() -> None:
    """Each is 1/6 of those beside it and 1/12 of those across a corner: as one dense system, away from the border."""
    image, missing = random(2, 9, 7), torch.zeros(9, 7, dtype=torch.bool)
    missing[2:6, 1:5] = missing[7, 5] = True
    cells = missing.nonzero().tolist()
    left, right = np.eye(len(cells)), np.zeros((len(cells), 2))
    for row, (i, j) in enumerate(cells):
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                weight, beside = {1: 1 / 6, 2: 1 / 12}.get(abs(di) + abs(dj), 0.0), [i + di, j + dj]
                if beside in cells:
                    left[row, cells.index(beside)] -= weight
                else:
                    right[row] += weight * image[:, beside[0], beside[1]].numpy()
    found = noisy_linear(image, missing[None], noise=0)[0]
    assert found[:, missing].T.numpy() == pytest.approx(np.linalg.solve(left, right), abs=1e-4)
    assert torch.equal(found[:, ~missing], image[:, ~missing])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_imputation_is_that_of_another_implementation(share: float) -> None:
    image, missing = random(1, 16, 16) * 2 - 1, random(16, 16, seed=1) < share
    peer = NoisyLinearImputer(noise=0)(image, (~missing).float())
    assert torch.allclose(noisy_linear(image, missing[None], noise=0)[0], peer.float(), atol=1e-3)


def test_imputation_continues_a_plane_in_volumes_and_adds_seeded_noise() -> None:
    """In 3-D, too, a linear image is the mean of its symmetric neighbours."""
    plane = torch.linspace(-1, 1, 7)[None, :, None, None].expand(1, 7, 6, 5)
    missing = torch.zeros(1, 7, 6, 5, dtype=torch.bool)
    missing[0, 2:5, 2:4, 1:4] = True
    assert torch.allclose(noisy_linear(plane, missing, noise=0)[0], plane, atol=1e-4)
    noisy = noisy_linear(plane, missing, noise=0.1)
    assert torch.equal(noisy, noisy_linear(plane, missing, noise=0.1))
    added = (noisy[0] - plane)[:, missing[0]]
    assert 0.05 < float(added.std()) < 0.2


def test_road_prefers_the_map_that_the_classifier_uses() -> None:
    """With one region that decides and texture that cannot be imputed, a perfect map is far from its opposite."""
    weight = torch.zeros(12, 12)
    weight[2:6, 2:6] = 1.0
    image = torch.where(weight > 0, 0.9, -0.9)[None, None].expand(2, 1, 12, 12).clone()
    classifier = Linear(weight, -20.0)
    right, wrong, none = (
        measured(Road(classifier), result(image, s.expand(2, 12, 12)))["road"] for s in (weight, 1 - weight, weight * 0)
    )
    assert wrong < -0.3 < none < 0.3 < right


def test_region_flipping_by_hand() -> None:
    weight = torch.zeros(4, 6)
    weight[:, 0:2], weight[:, 2:4] = 0.5, 0.25  # of the three thirds the first says most, the last nothing
    classifier, image = Linear(weight, -3.0), torch.zeros(1, 1, 4, 6)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    curve = [sigmoid(4 + 2 - 3), sigmoid(2 - 3), sigmoid(-3), sigmoid(-3)]
    found = measured(RegionFlipping(classifier, Grid(columns=3)), result(image, weight[None]))
    assert found["region_deletion"] == pytest.approx(np.trapezoid(curve) / 3, abs=1e-5)
    same = measured(RegionFlipping(classifier, Grid(columns=3)), result(image, torch.ones(1, 4, 6)))
    assert same["region_deletion_below_random"] == 0
    alone = measured(RegionFlipping(classifier, Grid(columns=1)), result(image, weight[None]))
    assert alone["region_deletion"] is None, "one region has no order"


def test_what_faithfulness_adds_to_an_evaluation() -> None:
    """Every metric is made from its description and measures what it is named after, in pictures and in volumes."""
    parts = Parts({"regions": {"_target_": "cfxai.regions.grid.Grid", "columns": 2}}, classifier=toy_coin().classifier)
    configs = faithfulness_metrics(parts)
    assert list(configs) == [*FAITHFULNESS, "region_flipping"]
    assert "region_flipping" not in faithfulness_metrics(Parts({}))
    image, truth = random(2, 1, 16, 16), random(2, 16, 16, seed=1) < 0.2
    made = metric_factory(parts, configs, skip_realism=True)()
    assert all(isinstance(metric, Metric) for metric in made.values())
    found = {k: v for m in made.values() for k, v in measured(m, result(image, image[:, 0], truth=truth)).items()}
    for name in ("deletion", "insertion", "road", "relevance_mass", "gini", "region_deletion"):
        assert found[name] is not None

    volume = random(1, 1, 6, 8, 7)
    classifier = Linear(random(6, 8, 7) * 0.05, -4.0)
    for metric in (DeletionInsertion(classifier, steps=3, baseline="blur"), Road(classifier)):
        assert None not in [v for k, v in measured(metric, result(volume, volume[:, 0])).items() if "_ci" not in k]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda c: DeletionInsertion(c, baseline="grey"), "baseline: choose black or blur, not 'grey'"),
        (lambda c: DeletionInsertion(c, steps=0), "each must be 1 or more"),
        (lambda c: Road(c, shares=[0.5, 1]), "must lie between 0 and 1"),
        (lambda c: RegionFlipping(c, Grid(), baseline="grey"), "baseline: choose black or blur"),
    ],
)
def test_settings_out_of_range(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(nn.Identity())
