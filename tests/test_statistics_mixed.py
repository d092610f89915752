"""The mixed model against the same model written otherwise, and against patient means where those hold all there is."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.api import MixedLM

from cfxai.errors import DataError
from cfxai.regions.statistics.mixed import MixedModel, mixed_model

REGIONS = ("left", "middle", "right")


def logs(
    seed: int, patients: int = 20, images: int = 1, effect: float = 0.0, between: float = 0.5, folds: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logs of the scores of three regions, labels, patients, and folds; the effect is on the right region."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    labels, fold = patient % 2, patient // 2 % 5
    scores = random.normal(size=(len(patient), 3)) * 0.3 + between * random.normal(size=(patients, 3))[patient]
    scores += folds * random.normal(size=(5, 3))[fold] + effect * labels[:, None] * [0, 0, 1]
    return scores, labels, patient, fold


def effects(found: MixedModel) -> np.ndarray:
    return np.array([effect.difference for effect in found.effects])


@pytest.mark.filterwarnings("ignore")
def test_one_image_per_patient_is_a_model_of_logs_with_an_intercept_per_image() -> None:
    scores, labels, patient, _ = logs(0, effect=0.7)
    found = mixed_model(scores, labels, patient, REGIONS)
    scale = np.random.default_rng(1).normal(size=(20, 1))  # which only the intercepts see
    long = pd.DataFrame(
        {
            "log": (scores + scale).ravel(),
            "group": np.repeat(labels, 3),
            "region": REGIONS * 20,
            "image": patient.repeat(3),
        }
    )
    fit = smf.mixedlm("log ~ group * region", long, groups="image").fit()
    terms = ["group:region[T.middle]", "group:region[T.right]"]
    assert effects(found)[1:] - effects(found)[0] == pytest.approx(fit.fe_params[terms].to_numpy())
    assert effects(found).sum() == pytest.approx(0)
    covariance = fit.cov_params().loc[terms, terms].to_numpy()
    wald = fit.fe_params[terms].to_numpy() @ np.linalg.solve(covariance, fit.fe_params[terms].to_numpy())
    assert found.interaction_p == pytest.approx(stats.f.sf(wald / 2, 2, 18), rel=1e-3)
    right = found.effects[2]
    assert right.low < right.difference < right.high
    assert right.adjusted_p == pytest.approx(min(1, 3 * right.p))


def test_with_equally_many_images_it_is_a_model_of_patient_means() -> None:
    scores, labels, patient, _ = logs(1, patients=16, images=4, effect=0.6)
    found = mixed_model(scores, labels, patient, REGIONS)
    means = scores.reshape(16, 4, 3).mean(1)
    plain = mixed_model(means, labels[::4], patient[::4], REGIONS)
    assert effects(found) == pytest.approx(effects(plain), abs=1e-6)
    assert found.interaction_p == pytest.approx(plain.interaction_p, rel=1e-2)
    assert found.deviations["image"] == pytest.approx(0.3, abs=0.06)
    assert found.deviations["patient"] == pytest.approx(0.5, abs=0.2)
    assert (found.images, found.patients, plain.images) == (64, (8, 8), 16)


def test_folds() -> None:
    scores, labels, patient, fold = logs(3, patients=40, images=2, effect=0.6, between=0.3, folds=0.8)
    found = mixed_model(scores, labels, patient, REGIONS, folds=fold)
    assert set(found.deviations) == {"image", "patient", "fold"}
    assert found.deviations["fold"] > found.deviations["patient"]
    assert found.effects[2].difference == pytest.approx(0.4, abs=0.15)  # 0.6 less its mean over the regions
    assert "fold SD" in found.sentence
    alone = mixed_model(scores[::2], labels[::2], patient[::2], REGIONS, folds=fold[::2])
    assert set(alone.deviations) == {"image", "fold"}


def test_order_of_regions_does_not_matter() -> None:
    scores, labels, patient, fold = logs(4, patients=20, images=2, effect=0.4, folds=0.4)
    order = [2, 0, 1]
    plain = mixed_model(scores, labels, patient, REGIONS, folds=fold)
    other = mixed_model(scores[:, order], labels, patient, [REGIONS[i] for i in order], folds=fold)
    assert effects(other) == pytest.approx(effects(plain)[order], abs=1e-4)
    assert other.interaction_p == pytest.approx(plain.interaction_p, rel=0.01)


def test_false_positives() -> None:
    """Somewhat fewer than 5 %, as is said; the model of clr scores as they stand has 14 %."""
    found = [mixed_model(*logs(seed)[:3], REGIONS).interaction_p <= 0.05 for seed in range(400)]
    assert stats.binomtest(sum(found), 400, 0.05, alternative="greater").pvalue > 0.01
    assert sum(found) >= 4


def test_covariates_are_held_equal() -> None:
    scores, labels, patient, _ = logs(5, patients=60)
    age = np.random.default_rng(5).normal(size=60) + 2 * labels
    confounded = scores + 0.5 * age[:, None] * [0, 0, 1]
    assert mixed_model(confounded, labels, patient, REGIONS).interaction_p < 0.01
    held = mixed_model(confounded, labels, patient, REGIONS, covariates=age[:, None])
    assert held.interaction_p > 0.05
    assert "adjusted for 1 covariate" in held.sentence


def test_patients_who_do_not_differ() -> None:
    """Where no variance is left to patients, the images are as good as independent."""
    scores, labels, patient, _ = logs(2, patients=12, images=2, between=0.0)
    found = mixed_model(np.r_[scores, [[np.nan, 1, 2]]], np.r_[labels, 1], np.r_[patient, 0], REGIONS)
    assert "the variance between patients is estimated as 0" in found.sentence
    assert "1 image left out" in found.sentence
    alone = mixed_model(scores, labels, np.arange(24), REGIONS)
    half = found.effects[2].high - found.effects[2].difference
    assert effects(found) == pytest.approx(effects(alone))
    assert half / stats.t.ppf(0.975, 10) == pytest.approx(
        (alone.effects[2].high - alone.effects[2].difference) / stats.t.ppf(0.975, 22), rel=1e-3
    )


@pytest.mark.filterwarnings("ignore")
def test_a_fit_that_does_not_converge_gives_no_p_value(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = MixedLM.fit
    monkeypatch.setattr(MixedLM, "fit", lambda *args, **options: fit(*args, **{**options, "maxiter": 1}))
    scores, labels, patient, _ = logs(3, patients=12, images=2)
    found = mixed_model(scores, labels, patient, REGIONS)
    assert np.isnan([found.interaction_p, *(effect.p for effect in found.effects)]).all()
    assert "p undefined" in found.sentence
    assert "the fit did not converge, so no p-value is given; statsmodels:" in found.sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y, p, f: (s - [np.inf, 0, 0], y, p, f), "40 scores have no logarithm"),
        (lambda s, y, p, f: (s[:14], y[:14], p[:14], f[:14]), "needs at least 4 patients .* got 3"),
        (lambda s, y, p, f: (s, y, p, np.arange(40) % 2), "Patient 0 is in several folds"),
    ],
)
def test_refusals(change, message: str) -> None:
    scores, labels, patient, fold = change(*logs(7, patients=20, images=2))
    with pytest.raises(DataError, match=message):
        mixed_model(scores, labels, patient, REGIONS, folds=fold)
