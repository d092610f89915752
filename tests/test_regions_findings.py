"""Findings per image, and whether regions' scores follow them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, permutation_test, spearmanr
from sklearn.metrics import ndcg_score, roc_auc_score

from cfxai.errors import ConfigError, DataError
from cfxai.regions.alignment import align, foldwise
from cfxai.regions.findings import Findings, read_terms
from cfxai.regions.rank_correlation import Ranked
from cfxai.regions.ranking import rank_regions

REGIONS = ["left lung", "right lung", "heart"]
TERMS = """
consolidation: {regions: [left lung, right lung]}
air bronchogram: {parent: consolidation}
cardiomegaly: {regions: [heart]}
rotated: {regions: []}
"""
TABLE = """image,term,severity
a,consolidation,2
a,air bronchogram,0.5
a,cardiomegaly,1
b,,
c,rotated,3
"""


def write(folder: Path, table: str = TABLE, terms: str = TERMS, suffix: str = "yaml") -> tuple[Path, Path]:
    (folder / "findings.csv").write_text(table)
    (folder / f"terms.{suffix}").write_text(terms)
    return folder / "findings.csv", folder / f"terms.{suffix}"


def test_severities_add_up_over_terms_and_an_image_not_read_is_not_normal(tmp_path: Path) -> None:
    found = Findings(*write(tmp_path)).severity(["c", "a", "unread", "b"], REGIONS)
    assert found.tolist()[:2] == [[0, 0, 0], [2.5, 2.5, 1]]
    assert np.isnan(found[2]).all()
    assert found[3].tolist() == [0, 0, 0]


def test_terms_as_csv_mean_the_same_and_severity_is_1_unless_given(tmp_path: Path) -> None:
    as_csv = "term,regions,parent\nconsolidation,left lung; right lung,\nair bronchogram,,consolidation\n"
    as_csv += "cardiomegaly,heart,\nrotated,,\n"
    table, terms = write(tmp_path, "image,term\na,consolidation\na,cardiomegaly\n", as_csv, "csv")
    assert read_terms(terms) == read_terms(write(tmp_path)[1])
    (tmp_path / "findings.csv").write_text("image,term\na,consolidation\na,cardiomegaly\n")
    assert Findings(table, terms).severity(["a"], REGIONS).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("table", "terms", "error", "words"),
    [
        ("image,term,severity\na,cardiomegali,1\n", TERMS, DataError, "did you mean cardiomegaly"),
        ("image,term,severity\na,rotated,-1\n", TERMS, DataError, "severity '-1' of image a"),
        ("image,term,severity\na,rotated,\n", TERMS, DataError, "severity '' of image a"),
        ("image,term,severity\na,rotated,1\na,rotated,2\n", TERMS, DataError, "twice"),
        ("id,term\na,rotated\n", TERMS, DataError, "no column image"),
        (TABLE, "x: {parent: y}\ny: {parent: x}\n", ConfigError, "ancestor"),
        (TABLE, "x: {parent: z}\n", ConfigError, "'z', is no term"),
        (TABLE, "x: {}\n", ConfigError, "needs regions or a parent"),
        (TABLE, "x: [heart]\n", DataError, "each line must be like"),
        (TABLE, "x: {", DataError, "terms.yaml"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: str, terms: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Findings(*write(tmp_path, table, terms))


def test_findings_of_other_regions_or_other_images_are_refused(tmp_path: Path) -> None:
    findings = Findings(*write(tmp_path))
    with pytest.raises(ConfigError, match=r"'cardiomegaly' is about 'heart'"):
        findings.severity(["a"], REGIONS[:2])
    with pytest.raises(DataError, match="none of the 2 images"):
        findings.severity(["x", "y"], REGIONS)


VALUES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=3, max_size=12)


@settings(max_examples=80)
@given(VALUES, st.integers(0, 1000))
def test_rank_correlations_are_scipys_with_ties_permuted_and_reweighted(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    x, y = np.array(pairs, float).T
    random = np.random.default_rng(seed)
    ranked, order = Ranked.of(x, y), np.argsort(x, kind="stable")
    shuffled = random.permuted(np.tile(ranked.level, (3, 1)), axis=1)
    found = ranked.correlations(shuffled, np.ones((1, len(x))))
    for levels, (rho, tau) in zip(shuffled, found, strict=True):
        if np.ptp(x) and np.ptp(y):
            assert rho == pytest.approx(spearmanr(x[order], levels).statistic, abs=1e-9)
            assert tau == pytest.approx(kendalltau(x[order], levels).statistic, abs=1e-9)
        else:
            assert np.isnan([rho, tau]).all()
    weight = random.integers(0, 3, len(x))
    again = np.repeat(order, weight)
    [(rho, tau)] = ranked.correlations(ranked.level[None], weight[None].astype(float))
    if len(again) > 1 and np.ptp(x[again]) and np.ptp(y[again]):
        assert rho == pytest.approx(spearmanr(x[again], y[again]).statistic, abs=1e-9)
        assert tau == pytest.approx(kendalltau(x[again], y[again]).statistic, abs=1e-9)


def cohort(n: int = 60, seed: int = 0) -> dict[str, np.ndarray | list[str]]:
    """Two classes that differ in both variables; within them, only region 0 follows its findings."""
    random = np.random.default_rng(seed)
    ill = np.repeat([0, 1], n // 2)
    severity = random.integers(0, 4, (n, 2)) + 3.0 * ill[:, None]
    scores = np.stack([severity[:, 0] + random.normal(0, 1, n), random.normal(0, 1, n) + 3 * ill], 1)
    return {
        "scores": scores,
        "severity": severity,
        "regions": ["follows", "does not"],
        "strata": [f"class {label}" for label in ill],
        "patients": [str(i) for i in range(n)],
    }


def test_one_class_gives_scipys_coefficients_and_permutation_p() -> None:
    data = cohort(40)
    one = {key: value[:20] for key, value in data.items() if key != "regions"} | {"regions": data["regions"]}
    first, second = align(**one, repeats=3000)
    for column, found in enumerate((first, second)):
        x, y = one["scores"][:, column], one["severity"][:, column]
        assert found.spearman.value == pytest.approx(spearmanr(x, y).statistic)
        assert found.kendall.value == pytest.approx(kendalltau(x, y).statistic)
        reference = permutation_test(
            (x,), lambda x, y=y: spearmanr(x, y).statistic, permutation_type="pairings", n_resamples=500, rng=1
        )
        assert found.spearman.p == pytest.approx(reference.pvalue, abs=0.05)
        assert found.spearman.low < found.spearman.value < found.spearman.high
    assert (first.patients, first.strata) == (20, ("class 0",))
    assert first.spearman.p < 0.01 < second.spearman.p


def test_classes_are_pooled_by_fishers_z_and_their_difference_is_no_alignment() -> None:
    data = cohort()
    follows, does_not = align(**data, repeats=500)
    halves = [slice(0, 30), slice(30, 60)]
    for name, reference in (("spearman", spearmanr), ("kendall", kendalltau)):
        z = [np.arctanh(reference(data["scores"][h, 0], data["severity"][h, 0]).statistic) for h in halves]
        assert getattr(follows, name).value == pytest.approx(np.tanh(np.mean(z)))
    assert spearmanr(data["scores"][:, 1], data["severity"][:, 1]).statistic > 0.5  # classes pooled
    assert abs(does_not.spearman.value) < 0.3
    assert does_not.spearman.p > 0.05


def test_a_region_has_the_same_numbers_whatever_stands_beside_it() -> None:
    data = cohort()
    both = align(**data, repeats=100)
    turned = data | {name: data[name][:, ::-1] for name in ("scores", "severity")}
    turned["regions"] = data["regions"][::-1]
    assert align(**turned, repeats=100) == both[::-1]


def test_permutation_p_is_uniform_without_alignment() -> None:
    random = np.random.default_rng(5)
    scores, severity = random.normal(size=(20, 120)), random.integers(0, 3, (20, 120)).astype(float)
    found = align(
        scores,
        severity,
        regions=[str(i) for i in range(120)],
        strata=["a"] * 10 + ["b"] * 10,
        patients=[str(i) for i in range(20)],
        repeats=200,
    )
    for name in ("spearman", "kendall"):
        p = np.array([getattr(one, name).p for one in found])
        assert 0.01 <= (p <= 0.05).mean() <= 0.11  # three standard deviations
        assert 0.4 < p.mean() < 0.6


def test_images_of_a_patient_are_averaged_and_what_is_missing_is_left_out() -> None:
    data = cohort()
    twice = {
        key: value
        if key == "regions"
        else np.concatenate([value, value])
        if key in ("scores", "severity")
        else value * 2
        for key, value in data.items()
    }
    assert align(**twice, repeats=50) == align(**data, repeats=50)
    data["scores"][:10, 0] = np.nan
    data["severity"][50:] = np.nan
    assert [found.patients for found in align(**data, repeats=50)] == [40, 50]


def test_too_few_patients_give_a_sentence_and_no_number() -> None:
    data = cohort(8)
    [found, _] = align(**data, repeats=10)
    assert found.spearman is None
    assert found.kendall is None
    assert found.problem == (
        "follows: no class has 5 patients whose scores and severities differ; 8 patients have both."
    )
    with pytest.raises(DataError, match="do not match"):
        align(**data | {"strata": ["a"]})


def test_the_published_analysis_is_scipys_per_fold() -> None:
    data, folds = cohort(), np.arange(60) % 5
    [found, _] = foldwise(data["scores"], data["severity"], regions=data["regions"], folds=folds)
    each = [spearmanr(data["scores"][folds == f, 0], data["severity"][folds == f, 0]).statistic for f in range(5)]
    assert (found.folds, found.mean) == (5, pytest.approx(np.mean(each)))
    assert found.deviation == pytest.approx(np.std(each, ddof=1))
    data["severity"][folds == 2] = 1
    assert foldwise(data["scores"], data["severity"], regions=data["regions"], folds=folds)[0].folds == 4


RANKED = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 2)), min_size=2, max_size=7)


@settings(max_examples=80)
@given(RANKED)
def test_ranking_is_sklearns_and_ignores_missing_regions(pairs: list[tuple[int, int]]) -> None:
    score, gain = np.array(pairs, float).T
    found = rank_regions(np.stack([score, [*score[:-1], np.nan]]), np.stack([gain, gain]))
    for place, some in enumerate((slice(None), slice(0, -1))):
        x, y = score[some], gain[some]
        if len(y) > 1 and np.ptp(y):
            assert found.ndcg[place] == pytest.approx(ndcg_score([y], [x]))
        else:
            assert np.isnan(found.ndcg[place])
        if 0 < (y > 0).sum() < len(y):
            assert found.auc[place] == pytest.approx(roc_auc_score(y > 0, x))
        else:
            assert np.isnan(found.auc[place])
