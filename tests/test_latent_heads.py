"""Heads on latents: fitted as their formulas say, scored as scikit-learn and scipy do, and the tool that runs them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import complaint, exit_code, tool
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import check_grad
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, mean_absolute_error, roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from statsmodels.miscmodels.ordinal_model import OrderedModel

from cfxai.cli.latent_heads import latent_heads_command
from cfxai.errors import DataError
from cfxai.latents import proportional_odds
from cfxai.latents.comparison import COMPARED, NAMES, compare_heads
from cfxai.latents.heads import LOGISTIC_C, fit_head
from cfxai.latents.linear_head import ordered_head
from cfxai.latents.penalty import folds
from cfxai.latents.proportional_odds import ProportionalOdds
from cfxai.latents.scores import finding_scores, grade_scores, with_intervals
from cfxai.latents.table import LatentTable, write_table


def graded(n: int, d: int = 8, grades: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents of unequal spread, and grades by proportional odds along the first two dimensions."""
    random = np.random.default_rng(seed)
    unit = random.normal(size=(n, d))
    score = 2 * unit[:, 0] - 1.5 * unit[:, 1] + random.logistic(size=n)
    return unit * np.geomspace(0.05, 1, d) + 3, np.searchsorted(np.linspace(-2, 2, grades - 1), score)


@pytest.fixture(scope="module")
def table() -> LatentTable:
    z, labels = graded(240, d=5)
    return LatentTable(z, labels, np.repeat(["train", "val", "test"], [120, 60, 60]), (np.arange(240) // 2).astype(str))


@pytest.fixture(scope="module")
def compared(table: LatentTable) -> dict[str, Any]:
    return compare_heads(table, draws=100)


def test_proportional_odds_is_the_maximum_likelihood_fit() -> None:
    z, y = graded(400, d=4)
    z = StandardScaler().fit_transform(z)
    ours, theirs = ProportionalOdds(l2=0.0).fit(z, y), OrderedModel(y, z, distr="logit").fit(method="bfgs", disp=False)
    assert ours.coef_ == pytest.approx(theirs.params[:4], abs=1e-3)
    assert ours.thresholds_ == pytest.approx(theirs.model.transform_threshold_params(theirs.params)[1:-1], abs=1e-3)


@pytest.mark.parametrize("grades", [2, 3, 5])
def test_its_gradient_is_that_of_its_objective(grades: int) -> None:
    z, y = graded(60, d=3, grades=grades)
    start, t = np.random.default_rng(1).normal(size=3 + grades - 1), grades - 1
    value, gradient = (lambda p, i=i: proportional_odds._objective(p, z - 3, y, t, 0.3)[i] for i in (0, 1))
    assert check_grad(value, gradient, start) < 1e-5


def test_its_penalty_is_the_mean_likelihood_s() -> None:
    """Two grades: scikit-learn's C multiplies the sum over n cases of the loss, and halves ‖coef‖²."""
    z, y = graded(200, grades=2)
    z = StandardScaler().fit_transform(z)
    ours = ProportionalOdds(l2=0.05).fit(z, y)
    theirs = LogisticRegression(C=1 / (2 * 0.05 * len(y)), tol=1e-8, max_iter=1000).fit(z, y)
    assert ours.coef_ == pytest.approx(theirs.coef_[0], abs=1e-3)
    assert -ours.thresholds_ == pytest.approx(theirs.intercept_, abs=1e-3)


def test_grades_that_training_lacks_are_skipped() -> None:
    z, y = graded(200)
    y = np.array([0, 1, 4, 7])[y]
    assert set(ProportionalOdds().fit(z - 3, y).predict(z - 3)) <= {0, 1, 4, 7}
    head = fit_head("ols_distance", z, y).head
    assert head.grades.tolist() == [0, 1, 4, 7]
    assert head.grade(torch.from_numpy(z)).round().max() <= 7


def test_ordinal_probabilities_and_its_median() -> None:
    z, y = graded(300)
    head = fit_head("ordinal", z, y).head
    p = head.probability(torch.from_numpy(z)).numpy()
    score, thresholds = head.score(torch.from_numpy(z)).numpy(), head.thresholds.numpy()
    assert p.sum(1) == pytest.approx(1)
    assert p[:, :2].sum(1) == pytest.approx(expit(thresholds[1] - score[:, 0]))
    median = (p.cumsum(1) < 0.5).sum(1)
    assert head.predicted(torch.from_numpy(z)).tolist() == median.tolist()
    assert head.grade(torch.from_numpy(z)).round().tolist() == median.tolist()
    assert mean_absolute_error(y, median) < 0.8 * np.abs(y - np.median(y)).mean()


def test_the_penalised_heads_are_scikit_learn_s() -> None:
    z, y = graded(200)
    fitted = fit_head("logistic", z, y)
    assert fitted.penalty["C"] in LOGISTIC_C
    scaler = StandardScaler().fit(z)
    theirs = LogisticRegression(C=fitted.penalty["C"], max_iter=5000).fit(scaler.transform(z), y > 0)
    ours = fitted.head.score(torch.from_numpy(z))[:, 0].numpy()
    assert ours == pytest.approx(theirs.decision_function(scaler.transform(z)), abs=1e-6)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(z, y > 0)
    assert fit_head("lda", z, y).head.probability(torch.from_numpy(z)).numpy() == pytest.approx(lda.predict_proba(z))


def test_the_svm_is_the_published_one_unless_another_is_better() -> None:
    z, y = graded(150)
    even = StandardScaler().fit_transform(z)
    assert fit_head("svm", even, y).penalty == {"C": 1.0, "latents": "raw"}
    fitted = fit_head("svm", z, y)  # the spread of what tells the grades is a twentieth of the largest
    assert fitted.penalty["latents"] == "scaled"
    theirs = SVC(kernel="linear", C=fitted.penalty["C"]).fit(even, y > 0).decision_function(even)
    score = fitted.head.score(torch.from_numpy(z))[:, 0].numpy()
    assert score == pytest.approx(theirs * score[0] / theirs[0], abs=1e-6)
    assert (fitted.head.probability(torch.from_numpy(z))[:, 1].numpy() > 0.5).tolist() == (theirs > 0).tolist()


def test_least_squares_on_the_distance_to_the_hyperplane() -> None:
    z, y = graded(200)
    machine = SVC(kernel="linear", C=1.0).fit(z, y > 0)
    distance = (z @ machine.coef_[0] + machine.intercept_[0]) / np.linalg.norm(machine.coef_)
    design = np.stack([distance, np.ones(len(z))], 1)
    estimate = design @ np.linalg.lstsq(design, y.astype(float))[0]
    head, latents = fit_head("ols_distance", z, y).head, torch.from_numpy(z)
    assert head.grade(latents, clipped=False).numpy() == pytest.approx(estimate, abs=1e-6)
    assert head.grade(latents).numpy() == pytest.approx(estimate.clip(0, 3), abs=1e-6)
    assert head.predicted(latents).tolist() == estimate.clip(0, 3).round().astype(int).tolist()


def test_a_multinomial_head_has_a_direction_for_each_class() -> None:
    z, _ = graded(240)
    y = np.argmax(z[:, :3] / z[:, :3].std(0) - (z[:, :3] / z[:, :3].std(0)).mean(0), axis=1)
    head = fit_head("multinomial", z, y).head
    assert head.weight.shape == (3, 8)
    assert head.probability(torch.from_numpy(z)).sum(1).numpy() == pytest.approx(1)
    assert (head.predicted(torch.from_numpy(z)).numpy() == y).mean() > 0.8


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=4, unique=True),
    st.floats(-9, 9),
)
def test_a_grade_and_its_score_are_each_other_s_inverse(thresholds: list[float], score: float) -> None:
    thresholds = sorted(thresholds)
    assume(np.diff(thresholds, append=np.inf).min() > 1e-3)
    head = ordered_head(np.zeros(1), np.ones(1), 0.0, grades=range(len(thresholds) + 1), thresholds=thresholds)
    z = torch.tensor([[score]], dtype=torch.double)
    grade = head.grade(z)
    assert 0 <= grade.item() <= len(thresholds)
    if 0 < grade.item() < len(thresholds):
        assert head.score_at(grade).item() == pytest.approx(score, abs=1e-6)
    assert head.score_at(head.grades.double()).tolist() == pytest.approx(head.centres.tolist())


def test_folds_keep_patients_together_and_have_every_class() -> None:
    _, y = graded(100)
    patients = np.arange(100) // 3
    finding = (y > 0).astype(int)
    found = folds(y, patients, apart=finding)
    assert len(found) == 5
    assert sorted(np.concatenate([held for _, held in found])) == list(range(100))
    for fitted, held in found:
        assert not set(patients[fitted]) & set(patients[held])
        assert len(set(finding[held])) == len(set(finding[fitted])) == 2


@pytest.mark.parametrize("labels", [[0] * 20, [1] * 20, [0] * 19 + [1]])
def test_a_class_that_is_missing_or_too_rare(labels: list[int]) -> None:
    with pytest.raises(DataError):
        fit_head("logistic", np.random.default_rng(0).normal(size=(20, 2)), np.array(labels))


cases = st.integers(3, 25).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=st.integers(-3, 3).map(float)),
        arrays(np.int64, n, elements=st.integers(0, 3)),
        arrays(np.int64, n, elements=st.integers(0, 3)),
        arrays(np.int64, n, elements=st.integers(0, 3)),
    )
)


@settings(max_examples=40)
@given(cases)
def test_scores_of_a_sample_are_those_of_its_cases_repeated(case: tuple[np.ndarray, ...]) -> None:
    score, predicted, truth, times = case
    repeated = np.repeat(np.arange(len(times)), times)
    s, p, t = score[repeated], predicted[repeated], truth[repeated]
    assume(0 < (t > 0).sum() < len(t) and len(set(s)) > 1 and len(set(t) | set(p)) > 1)
    found = finding_scores(score, predicted > 0, truth > 0) | grade_scores(score, predicted, truth, np.arange(4))
    values = {name: float(value(times[None].astype(float))[0]) for name, value in found.items()}
    assert values == pytest.approx(
        {
            "accuracy": accuracy_score(t > 0, p > 0),
            "f1": f1_score(t > 0, p > 0, zero_division=0),
            "auroc": roc_auc_score(t > 0, s),
            "mae": mean_absolute_error(t, p),
            "macro_f1": f1_score(t, p, labels=range(4), average="macro", zero_division=0),
            "qwk": cohen_kappa_score(t, p, weights="quadratic", labels=range(4)),
            "spearman": spearmanr(s, t).statistic,
        }
    )


def test_intervals_are_those_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    truth = random.random(400) < 0.5
    called = truth ^ (random.random(400) < 0.2)
    scores = finding_scores(random.normal(size=400) + truth, called, truth)
    found: Any = with_intervals(scores, np.arange(400))
    p = found["accuracy"]
    assert found["accuracy_ci"] == pytest.approx(
        [p + side * 1.96 * np.sqrt(p * (1 - p) / 400) for side in (-1, 1)], abs=0.01
    )
    samples = random.integers(400, size=(2000, 400))
    f1 = [f1_score(truth[sample], called[sample]) for sample in samples[:300]]
    assert found["f1_ci"] == pytest.approx(np.percentile(f1, [2.5, 97.5]), abs=0.015)
    assert found == with_intervals(scores, np.arange(400))


def test_the_bootstrap_draws_patients() -> None:
    truth, called = np.array([0, 1] * 50, bool), np.array([0, 1, 1, 1] * 25, bool)
    score = np.linspace(0, 1, 100)
    alone: Any = with_intervals(finding_scores(score, called, truth), np.arange(100))
    thrice = (np.repeat(x, 3) for x in (score, called, truth))
    of_patients: Any = with_intervals(finding_scores(*thrice), np.repeat(np.arange(100), 3))
    for name, value in alone.items():
        assert of_patients[name] == pytest.approx(value)
    one: Any = with_intervals(finding_scores(score, called, truth), np.zeros(100))
    assert one["accuracy"] == alone["accuracy"]
    assert one["accuracy_ci"] is None


def test_a_score_that_nothing_defines_is_none() -> None:
    once = np.ones(5, bool)
    found = with_intervals(finding_scores(np.arange(5.0), once, once), np.arange(5))
    assert (found["auroc"], found["auroc_ci"], found["accuracy"]) == (None, None, 1.0)
    grades = grade_scores(np.zeros(5), np.zeros(5, int), np.zeros(5, int), np.arange(2))
    assert with_intervals(grades, np.arange(5))["spearman"] is None


def test_heads_are_fitted_to_train_and_judged_on_test(table: LatentTable, compared: dict[str, Any]) -> None:
    found = compared
    assert found["split"] == "test"
    assert found["n"] == {"train": 120, "test": 60, "val": 60}
    assert set(found["val"]) == set(COMPARED) < set(found)
    for kind in COMPARED:
        undefined = {name for name in NAMES if found[kind][name] is None}
        about_grades = {"mae", "macro_f1", "qwk", "spearman"} if kind in ("logistic", "svm", "lda") else set()
        assert undefined == about_grades | ({"mae_unrounded"} if kind != "ols_distance" else set())
        assert found[kind]["auroc"] > 0.75
        assert found[kind]["auroc_ci"][0] <= found[kind]["auroc"] <= found[kind]["auroc_ci"][1]
    others = LatentTable(table.features.copy(), table.labels, table.split, table.groups)
    others.features[120:] = 0
    blind = compare_heads(others, draws=100)
    assert [blind[kind]["penalty"] for kind in COMPARED] == [found[kind]["penalty"] for kind in COMPARED]
    assert blind["logistic"]["auroc"] == 0.5


def test_two_grades_and_val_alone() -> None:
    z, y = graded(160, d=4, grades=2)
    found = compare_heads(LatentTable(z, y, np.repeat(["train", "val"], [100, 60])), draws=100)
    assert (found["split"], found["grades"]) == ("val", [0, 1])
    assert found["ordinal"]["mae"] == pytest.approx(1 - found["ordinal"]["accuracy"])


def test_the_tool(
    table: LatentTable, compared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "latents.npz", table)
    line = [str(tmp_path / "latents.npz"), "--json", str(tmp_path / "out.json"), "--draws", "100"]
    assert latent_heads_command(line) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == json.loads(json.dumps(compared))
    shown = capsys.readouterr().out
    for kind in COMPARED:
        assert kind in shown
    assert f"{found['ordinal']['qwk']:.3f}" in shown
    assert f"{found['val']['ordinal']['qwk']:.3f}" in shown


def test_the_tool_s_help_and_mistakes() -> None:
    shown = tool("latent_heads", "--help")
    assert shown.returncode == 0
    assert "--json FILE" in shown.stdout
    assert exit_code("none.npz", latent_heads_command) == 3
    for line, told in (("", "name one file"), ("a.npz b.npz", "name one file"), ("a.npz --draws 5", "100 or more")):
        assert told in complaint(line, latent_heads_command)
