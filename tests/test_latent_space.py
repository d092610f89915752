"""Moves in latent space: they do what was asked, by the shortest way, and leave alone what is to be left alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from cfxai.errors import ConfigError, DataError
from cfxai.latents.confounders import confounder_directions
from cfxai.latents.latent_space import LatentSpace, move_together
from cfxai.latents.linear_head import outstretched
from cfxai.latents.moves import DIRECTIONS, holding, least_move, least_move_beyond, square_root
from cfxai.latents.statistics import statistics

D, N = 8, 160
DIGEST, OTHER = "ab" * 32, "cd" * 32
seeds = st.integers(0, 2**31)


HELD = ("age", "sex")
Covariates = dict[str, np.ndarray]


def latents(n: int = N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Covariates]:
    """Correlated latents of unequal spread; grades 0–3 along one direction, age and sex along two others."""
    random = np.random.default_rng(seed)
    mixing = (np.eye(D) + 0.4 * np.random.default_rng(1).normal(size=(D, D))) * np.geomspace(0.1, 1, D)
    unit = random.normal(size=(n, D))
    grade = np.searchsorted([-1.5, 0, 1.5], 2 * unit[:, 0] + unit[:, 1] + 0.5 * random.logistic(size=n))
    age = 50 + 10 * unit[:, 1] + random.normal(size=n)
    sex = (unit[:, 2] + 0.3 * random.normal(size=n) > 0).astype(float)
    return torch.from_numpy(unit @ mixing + 2), torch.from_numpy(grade), {"age": age, "sex": sex}


@pytest.fixture(scope="module")
def ordinal() -> LatentSpace:
    z, y, covariates = latents()
    return LatentSpace(D, 4, kind="ordinal", hold=HELD).fit(z, y, covariates=covariates, digest=DIGEST)


@pytest.fixture(scope="module")
def multinomial() -> LatentSpace:
    z, y, covariates = latents()
    return LatentSpace(D, 4, kind="multinomial", hold=HELD).fit(z, y, covariates=covariates, digest=DIGEST)


def spd(random: np.random.Generator, d: int) -> np.ndarray:
    root = random.normal(size=(d, d)) * random.uniform(0.1, 2, d)
    return root @ root.T + 0.01 * np.eye(d)


def lengths(moves: np.ndarray, metric: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("bd,de,be->b", moves, np.linalg.inv(metric), moves))


@settings(max_examples=40)
@given(seeds, st.integers(1, 3), st.integers(0, 2))
def test_the_least_move_is_feasible_and_the_shortest(seed: int, m: int, held: int) -> None:
    random = np.random.default_rng(seed)
    metric, rows, fixed = spd(random, 7), random.normal(size=(m, 7)), random.normal(size=(held, 7))
    change = random.normal(size=(1, m))
    move = least_move(change, rows, holding(metric, fixed))
    assert move @ rows.T == pytest.approx(change, abs=1e-5)
    assert move @ fixed.T == pytest.approx(np.zeros((1, held)), abs=1e-5)
    constraints = np.concatenate([rows, fixed])
    free = np.eye(7) - np.linalg.pinv(constraints) @ constraints
    others = move + random.normal(size=(100, 7)) * random.choice([1e-3, 0.1, 1], (100, 1)) @ free
    assert (lengths(others, metric) >= lengths(move, metric) - 1e-9).all()


@settings(max_examples=25)
@given(seeds, st.integers(1, 4))
def test_the_least_move_beyond_is_that_of_a_general_solver(seed: int, m: int) -> None:
    random = np.random.default_rng(seed)
    metric, rows, change = spd(random, 6), random.normal(size=(m, 6)), random.normal(size=(2, m))
    moves = least_move_beyond(change, rows, metric)
    assert (moves @ rows.T >= change - 1e-6).all()
    inverse = np.linalg.inv(metric)
    for move, wanted in zip(moves, change, strict=True):
        feasible = least_move(wanted[None], rows, metric)[0]
        found = minimize(
            lambda x: x @ inverse @ x, feasible, jac=lambda x: 2 * inverse @ x, method="SLSQP", tol=1e-12,
            constraints={"type": "ineq", "fun": lambda x, w=wanted: rows @ x - w, "jac": lambda x: rows},
        )  # fmt: skip
        assert move @ inverse @ move <= found.fun * (1 + 1e-4) + 1e-8
        if (wanted <= 0).all():
            assert not move.any()


def test_scores_that_depend_on_each_other() -> None:
    rows = np.array([[1.0, 0, 0], [2.0, 0, 0]])
    with pytest.raises(ConfigError, match="alone"):
        least_move(np.ones((1, 2)), rows, np.eye(3))
    with pytest.raises(ConfigError, match="alone"):
        least_move(np.ones((1, 1)), rows[:1], holding(np.eye(3), rows[1:]))
    with pytest.raises(ConfigError, match="alone"):
        least_move(np.ones((1, 1)), np.zeros((1, 3)), np.eye(3))
    with pytest.raises(ConfigError, match="depend"):
        least_move_beyond(np.ones((1, 2)), np.array([[1.0, 0, 0], [-1.0, 0, 0]]), np.eye(3))


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=10)
@given(seeds)
def test_moves_arrive_and_hold_the_confounders(ordinal: LatentSpace, direction: str, seed: int) -> None:
    z = latents(5, seed)[0]
    held = ordinal.confounders.double()
    wanted = torch.empty(5, dtype=torch.double).uniform_(-4, 4)
    moved = ordinal.to_score(z, wanted, direction)
    assert ordinal.score(moved)[:, 0].numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
    assert (moved @ held.T).numpy() == pytest.approx((z @ held.T).numpy(), abs=1e-5)
    free = ordinal.to_score(z, wanted, direction, hold=False)
    assert ((free - z) @ held.T).abs().max() > 1e-3
    if direction == "covariance":
        assert (ordinal.length(free - z) <= ordinal.length(moved - z) + 1e-9).all()
        for other in DIRECTIONS:
            assert (ordinal.length(moved - z) <= ordinal.length(ordinal.to_score(z, wanted, other) - z) + 1e-9).all()


def test_directions(ordinal: LatentSpace) -> None:
    z = latents(4, 1)[0]
    w, sd, covariance = ordinal.weight[0].double(), ordinal.sd.double(), ordinal.covariance.double()
    along = {"covariance": covariance @ w, "weight": w, "published": sd * w}
    assert set(along) == set(DIRECTIONS)
    for direction, expected in along.items():
        move = ordinal.to_boundary(z, 1.0, direction, hold=False) - z
        cosine = torch.nn.functional.cosine_similarity(move, expected[None])
        assert cosine.abs().numpy() == pytest.approx(1, abs=1e-9)


def test_across_the_boundary_from_what_is_predicted(ordinal: LatentSpace) -> None:
    z = latents(60, 2)[0]
    before = ordinal.predicted(z) > 0
    assert 0 < before.sum() < len(z)
    moved = ordinal.to_boundary(z, margin=0.25)
    assert ((ordinal.predicted(moved) > 0) == ~before).all()
    distance = (ordinal.score(moved)[:, 0] - ordinal.thresholds[0]).abs()
    assert distance.numpy() == pytest.approx(0.25, abs=1e-5)


def test_to_probabilities_and_grades(ordinal: LatentSpace) -> None:
    z = latents(6, 3)[0]
    wanted = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.9, 0.999], dtype=torch.double)
    assert (1 - ordinal.probability(ordinal.to_probability(z, wanted))[:, 0]).numpy() == pytest.approx(
        wanted.numpy(), abs=1e-5
    )
    grades = torch.tensor([0, 0.4, 1, 1.5, 2.2, 3], dtype=torch.double)
    moved = ordinal.to_grade(z, grades)
    assert ordinal.grade(moved).numpy() == pytest.approx(grades.numpy(), abs=1e-5)
    whole = torch.tensor([0, 1, 2, 3, 1, 2])
    assert ordinal.predicted(ordinal.to_grade(z, whole.double())).tolist() == whole.tolist()
    middle = ordinal.thresholds[:2].mean().item()
    assert ordinal.score(ordinal.to_grade(z[:1], torch.ones(1)))[0, 0].item() == pytest.approx(middle, abs=1e-5)


def test_the_outermost_grades_stand_where_their_training_latents_are(ordinal: LatentSpace) -> None:
    half = ordinal.thresholds.diff() / 2
    lowest, highest = ordinal.thresholds[0] - half[0], ordinal.thresholds[-1] + half[-1]
    expected = torch.stack([torch.minimum(lowest, ordinal.typical[0]), torch.maximum(highest, ordinal.typical[-1])])
    assert torch.allclose(ordinal.score_at(torch.tensor([0.0, 3.0])), expected)
    typical = [torch.tensor(score) for score in (-5.0, 9.0, 1.5)]
    assert outstretched(torch.tensor([-1.0, 0.0, 2.0]), typical).tolist() == [-5.0, 0.0, 2.0]


def test_an_ordered_class_is_entered_by_its_nearest_edge(ordinal: LatentSpace) -> None:
    z = latents(40, 4)[0]
    target = torch.arange(40) % 4
    moved = ordinal.to_class(z, target, margin=0.1)
    assert ordinal.predicted(moved).tolist() == target.tolist()
    score = ordinal.score(z)[:, 0]
    edges = torch.cat([torch.tensor([-torch.inf]), ordinal.thresholds, torch.tensor([torch.inf])])
    inside = (score > edges[target] + 0.1) & (score < edges[target + 1] - 0.1)
    assert 0 < inside.sum() < 40
    assert (moved - z)[inside].abs().max() < 1e-6
    assert (ordinal.score(moved)[:, 0] - edges[target])[score < edges[target]].numpy() == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("hold", [True, False])
def test_a_class_without_order_is_entered_at_its_nearest_point(multinomial: LatentSpace, hold: bool) -> None:
    z = latents(12, 5)[0]
    target = torch.arange(12) % 4
    moved = multinomial.to_class(z, target, margin=0.2, hold=hold)
    others = multinomial.score(moved).masked_fill(torch.eye(4, dtype=torch.bool)[target], -torch.inf)
    margin = multinomial.score(moved).gather(1, target[:, None])[:, 0] - others.amax(1)
    assert (margin > 0.2 - 1e-5).all()
    assert multinomial.predicted(moved).tolist() == target.tolist()
    held = multinomial.confounders.double().numpy() if hold else np.zeros((0, D))
    inverse = np.linalg.inv(multinomial.covariance.double().numpy())
    weight = multinomial.weight.double().numpy()
    for start, end, t, score in zip(
        z.numpy(), moved.numpy(), target.tolist(), multinomial.score(z).numpy(), strict=True
    ):
        rows = weight[t] - np.delete(weight, t, 0)
        slack = score[t] - np.delete(score, t) - 0.2
        found = minimize(
            lambda x: x @ inverse @ x, end - start, jac=lambda x: 2 * inverse @ x, method="SLSQP", tol=1e-12,
            constraints=[
                {"type": "ineq", "fun": lambda x, r=rows, s=slack: r @ x + s, "jac": lambda x, r=rows: r},
                {"type": "eq", "fun": lambda x: held @ x, "jac": lambda x: held},
            ],
        )  # fmt: skip
        move = end - start
        assert move @ inverse @ move <= found.fun * (1 + 1e-3) + 1e-6


def test_several_attributes_at_once(ordinal: LatentSpace) -> None:
    z, _, covariates = latents()
    is_male = torch.from_numpy(covariates["sex"]).long()
    sex = LatentSpace(D, kind="logistic").fit(z, is_male, digest=DIGEST)
    wanted = torch.full((3,), 1.5), torch.full((3,), -0.5)
    moved = move_together(z[:3], [(ordinal, wanted[0]), (sex, wanted[1])], hold=False)
    for space, score in zip((ordinal, sex), wanted, strict=True):
        assert space.score(moved)[:, 0].numpy() == pytest.approx(score.numpy(), abs=1e-5)
    with pytest.raises(ConfigError, match="alone"):
        move_together(z[:3], [(ordinal, wanted[0]), (ordinal, wanted[1])])
    sex.fit(z, is_male, digest=OTHER)
    with pytest.raises(ConfigError, match="another model"):
        move_together(z[:3], [(ordinal, wanted[0]), (sex, wanted[1])])


@pytest.mark.parametrize("kind", ["logistic", "svm", "lda", "ols_distance"])
def test_every_kind_of_head_moves(kind: str) -> None:
    z, y, _ = latents()
    space = LatentSpace(D, 4, kind=kind).fit(z, y)
    assert ((space.predicted(z) > 0) == (y > 0)).float().mean() > 0.75
    assert space.probability(z).sum(1).numpy() == pytest.approx(1, abs=1e-6)
    before = space.predicted(z) > 0
    assert ((space.predicted(space.to_boundary(z, 0.01)) > 0) == ~before).all()
    assert space.predicted(space.to_class(z, torch.ones(N, dtype=torch.long), 0.01)).unique().tolist() == [1]


def test_what_cannot_be_asked(ordinal: LatentSpace, multinomial: LatentSpace) -> None:
    z = latents(2, 6)[0]
    two = torch.ones(2)
    asked: dict[str, Any] = {
        r"grade: 4\.5 is outside the trained range, 0 to 3": lambda: ordinal.to_grade(z, 4.5 * two),
        "grade: -1 is outside": lambda: ordinal.to_grade(z, -two),
        "never saw class 7": lambda: ordinal.to_class(z, torch.tensor([1, 7])),
        "never saw class 4": lambda: multinomial.to_class(z, torch.tensor([4, 0])),
        "probability": lambda: ordinal.to_probability(z, two),
        "has no grade": lambda: multinomial.grade(z),
        "has no boundary": lambda: multinomial.to_boundary(z),
        "has no score": lambda: multinomial.to_score(z, two),
        "direction: choose one of": lambda: ordinal.to_boundary(z, direction="random"),
        "kind: choose one of": lambda: LatentSpace(D, kind="forest"),
        "has 3 or more": lambda: LatentSpace(D, 2, kind="multinomial"),
        "not fitted": lambda: LatentSpace(D).score(z),
        "another model": lambda: ordinal.require_model(OTHER),
        r"hold: is \[\], but": lambda: LatentSpace(D, 4).fit(*latents()[:2], covariates=latents()[2]),
        r"such as \[age\]": lambda: LatentSpace(D, hold="age"),
    }
    for told, ask in asked.items():
        with pytest.raises(ConfigError, match=told):
            ask()
    ordinal.require_model(DIGEST)


def test_latents_that_cannot_be_fitted() -> None:
    z, y, covariates = latents()
    with pytest.raises(DataError, match="5 classes"):
        LatentSpace(D, 5).fit(z, y)
    with pytest.raises(DataError, match="1 training images are not finite"):
        LatentSpace(D, 4).fit(z.index_fill(0, torch.tensor([3]), torch.nan), y)
    with pytest.raises(DataError, match="are the same"):
        LatentSpace(D, 4).fit(torch.ones_like(z), y)
    with pytest.raises(DataError, match=r"Covariate age: It is 1\.0 everywhere"):
        LatentSpace(D, 4, hold=HELD).fit(z, y, covariates=covariates | {"age": np.ones(N)})


def test_confounders_are_found_where_they_are() -> None:
    z, _, covariates = latents(600)
    for name, values in covariates.items():
        (direction,) = confounder_directions(z.numpy(), {name: values})
        assert np.linalg.norm(direction) == pytest.approx(1)
        assert abs(np.corrcoef(z.numpy() @ direction, values)[0, 1]) > 0.75
    both = confounder_directions(z.numpy(), covariates)
    assert both @ both.T == pytest.approx(np.eye(2), abs=1e-9)
    again = confounder_directions(z.numpy(), covariates | {"years": covariates["age"]})
    assert again.T @ again == pytest.approx(both.T @ both, abs=1e-6), (
        "the same directions twice are the same directions"
    )


def test_names_are_held_one_against_the_rest() -> None:
    z, _, covariates = latents(600)
    sex = np.where(covariates["sex"] > 0, "male", "female")
    numbers, names = (confounder_directions(z.numpy(), {"sex": values}) for values in (covariates["sex"], sex))
    assert abs(numbers @ names.T) == pytest.approx(1, abs=1e-6)
    scanner = np.array(["A", "B", "C"])[np.digitize(covariates["age"], [45, 55])]
    apart = [confounder_directions(z.numpy(), {"is": (scanner == name).astype(float)})[0] for name in "ABC"]
    span = confounder_directions(z.numpy(), {"scanner": scanner})
    assert np.array(apart) @ span.T @ span == pytest.approx(np.array(apart), abs=1e-5)


def test_statistics_shrink_the_correlation() -> None:
    z = latents()[0].numpy()
    found = statistics(z)
    correlation, _ = ledoit_wolf((z - z.mean(0)) / z.std(0))
    assert found.covariance == pytest.approx(correlation * np.outer(z.std(0), z.std(0)))
    few = np.concatenate([z[:6], np.ones((6, 1))], 1)
    assert np.linalg.eigvalsh(statistics(few).covariance)[0] > 0


def test_lengths_and_neighbours(ordinal: LatentSpace) -> None:
    z, others = latents(3, 7)[0], latents(20, 8)[0]
    inverse = np.linalg.inv(ordinal.covariance.double().numpy())
    expected = [[mahalanobis(a, b, inverse) for b in others.numpy()] for a in z.numpy()]
    assert ordinal.nearest(z, others).numpy() == pytest.approx(np.min(expected, axis=1), rel=1e-6)
    assert ordinal.length(z - others[:3]).numpy() == pytest.approx(np.diag(expected), rel=1e-6)


def test_steps_through_the_root_are_as_long_as_their_moves_and_hold_the_confounders(ordinal: LatentSpace) -> None:
    root = ordinal.root()
    free = torch.linalg.pinv(root) @ root  # steps that move at all
    steps = torch.randn(6, D, generator=torch.Generator().manual_seed(0)) @ free
    assert torch.allclose(ordinal.length(steps @ root), steps.norm(dim=1), rtol=1e-3)
    assert (steps @ root @ ordinal.confounders.T).abs().max() < 1e-5
    matrix = spd(np.random.default_rng(0), 5)
    assert square_root(matrix) @ square_root(matrix) == pytest.approx(matrix)


def test_scores_can_be_differentiated_and_moves_keep_the_type(ordinal: LatentSpace) -> None:
    z = latents(3, 9)[0].float().requires_grad_()
    gradient = torch.autograd.grad(ordinal.score(z).sum(), z)[0]
    assert torch.allclose(gradient, ordinal.weight.expand(3, -1))
    assert torch.autograd.grad(ordinal.grade(z).sum(), z)[0].isfinite().all()
    moved = ordinal.to_boundary(z)
    assert (moved.dtype, moved.requires_grad) == (torch.float, False)
    assert ordinal.score(z.detach().bfloat16()).dtype == torch.float


@pytest.mark.parametrize("kind", ["ordinal", "multinomial"])
def test_it_is_saved_like_any_module(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    space = request.getfixturevalue(kind)
    save_file(space.state_dict(), tmp_path / "space.safetensors")
    again = LatentSpace(D, 4, kind=kind, hold=HELD)
    again.load_state_dict(load_file(tmp_path / "space.safetensors"))
    z, target = latents(8, 10)[0], torch.arange(8) % 4
    assert torch.equal(space.to_class(z, target), again.to_class(z, target))
    again.require_model(DIGEST)
    assert not list(space.parameters())
