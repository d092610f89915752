"""The study of regions: what it measures, and which tests it chooses."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_study import CPU, Bright, Brightness, Darken, Refuses, dataset, measured, section
from torch import Tensor

from cfxai.attribution.targets import Contrast
from cfxai.cli.regions import regions_command
from cfxai.errors import ConfigError, DataError, UnsuitableError
from cfxai.region_study.covariates import covariates_of
from cfxai.region_study.measurement import measure
from cfxai.region_study.sample import usable_regions
from cfxai.regions.findings import Findings
from cfxai.regions.grid import Grid

# Measuring


def test_scores_are_those_of_the_maps() -> None:
    data = dataset()
    found = measured(data)
    maps = torch.from_numpy(data.images)[:, 0] + 1
    total, corner = maps.sum((1, 2)), maps[:, :6, :6].sum((1, 2))
    assert np.allclose(found.scores["share"][:, 0, 0], corner / total, rtol=1e-5)
    assert np.allclose(found.scores["positive"][:, 0, 0], corner, rtol=1e-5)
    assert (found.scores["negative"][:, 0] == 0).all()
    assert (found.scores["positive"][:, 1] == 0).all(), "raw and signed"
    assert np.allclose(found.scores["area"], 0.25)
    assert found.images["score"].to_numpy() == pytest.approx(10 * data.images.max((1, 2, 3)), rel=1e-5)


def test_every_image_is_asked_the_same_question() -> None:
    brightness = Brightness()
    measured(explainers={"b": brightness})
    assert set(brightness.asked) == {Contrast(1, 0)}


def test_a_counterfactuals_map_is_its_difference() -> None:
    data = dataset()
    found = measured(data, {"darken": Darken()})
    assert found.scores["share"][data.labels == 1, 0, 0] == pytest.approx(1, abs=1e-5)
    assert np.isnan(found.scores["share"][data.labels == 0]).all(), "a map of zeros says nothing"


def test_who_refuses_is_named_and_left_out() -> None:
    found = measured(explainers={"b": Brightness(), "r": Refuses()})
    assert found.methods == ("b",)
    assert found.refused == {"r": "refuses: no map of this network."}
    with pytest.raises(UnsuitableError, match="r: refuses"):
        measured(explainers={"r": Refuses()})


def test_outcomes() -> None:
    assert set(zip(measured().images["label"], measured().images["outcome"], strict=True)) == {(0, "TN"), (1, "TP")}


def test_regions_that_no_image_has() -> None:
    class Nowhere:
        names = ("nowhere",)

        def __call__(self, batch: Any) -> Tensor:
            return torch.zeros(len(batch["image"]), 1, 12, 12)

    data = dataset()
    with pytest.raises(DataError, match="no image has any of them"):
        measure({"b": Brightness()}, Bright(), data, Nowhere(), Contrast(1, 0), CPU, indices=[0, 1], batch_size=2)


# Testing


def test_patients_of_one_kind_are_compared_as_groups_in_one_family() -> None:
    found = section(measured(), "Abnormal and normal")
    assert "permutation of their labels" in found.about
    assert len(found.results) == 2 * 4
    first = found.results[0]
    assert (first.family, first.patients, first.correction) == (8, (8, 8), "max-T")
    assert first.name.startswith("brightness, upper left quadrant")
    assert first.low > 0.1
    assert first.adjusted_p < 0.01


def test_patients_with_images_of_both_kinds_are_their_own_controls() -> None:
    found = section(measured(dataset(both_kinds=True)), "Abnormal and normal")
    assert "16 of 16 patients have images of both kinds" in found.about
    assert found.results[0].patients == 16


def test_a_test_without_enough_patients_says_so_and_gives_no_number() -> None:
    found = section(measured(dataset(4)), "Abnormal and normal")
    assert found.results == ()
    assert "at least 4 patients" in found.sentences[0]


def test_a_region_that_never_varies_is_left_out_with_a_sentence() -> None:
    class WithEdge(Grid):
        def __init__(self) -> None:
            super().__init__(rows=2, columns=2)
            self.names = [*self.names, "nowhere"]

        def __call__(self, batch: Any) -> Tensor:
            maps = super().__call__(batch)
            return torch.cat([maps, torch.zeros_like(maps[:, :1])], 1)

    data = dataset()
    found = measure(
        {"b": Brightness()}, Bright(), data, WithEdge(), Contrast(1, 0), CPU, indices=range(32), batch_size=8
    )
    sample, notes = usable_regions(found, "share")
    assert list(sample.regions) == list(Grid(rows=2, columns=2).names)
    assert notes == ["'nowhere' is missing in 100% of the images and is left out of the tests."]


def test_covariates_take_away_what_they_explain() -> None:
    found = measured()
    plain = section(found, "Abnormal and normal").results[0]
    beside = found.images[["id"]].assign(
        age=found.scores["share"][:, 0, 0] + np.random.default_rng(1).normal(0, 0.01, 32), sex=list("mf") * 16
    )
    adjusted = section(found, "Abnormal and normal", covariates=beside[["age"]].to_numpy()).results[0]
    assert abs(adjusted.difference) < 0.5 * abs(plain.difference)


def test_covariates_from_a_table(tmp_path: Path) -> None:
    images = measured().images
    file = tmp_path / "patients.csv"
    images[["id"]].assign(age=range(32), sex=list("mf") * 16).iloc[::-1].to_csv(file, index=False)
    found = covariates_of(images, ["age", "sex", "score"], file)
    assert found is not None
    assert found.shape == (32, 3)
    assert found[:, 0].tolist() == list(range(32)), "by id, not by order"
    assert covariates_of(images, []) is None
    with pytest.raises(DataError, match="no column weight; there are"):
        covariates_of(images, ["weight"], file)
    (tmp_path / "bad.csv").write_text("image,age\na,1\n")
    with pytest.raises(DataError, match=r"bad\.csv: has no column id"):
        covariates_of(images, ["age"], tmp_path / "bad.csv")


def test_published_tests_are_beside_not_instead() -> None:
    found = measured()
    published = section(found, "As published (seed), brightness", published="seed")
    assert published.results[0].family == 4
    assert section(found, "Abnormal and normal", published="seed").results


def test_readers_findings(tmp_path: Path) -> None:
    data = dataset(40)
    lines = ["image,term,severity"]
    for i, label in enumerate(data.labels):
        severity = i // 2 % 5 + 1
        lines.append(f"{data.ids[i]},spot,{severity}" if label else f"{data.ids[i]},,")
        if label:
            data.images[i, :, 2:5, 2:5] = -0.6 + 0.3 * severity
    (tmp_path / "findings.csv").write_text("\n".join(lines))
    (tmp_path / "terms.yaml").write_text("spot: {regions: [upper left quadrant]}\n")
    findings = Findings(tmp_path / "findings.csv", tmp_path / "terms.yaml")
    found = section(measured(data), "Readers' findings, brightness", findings=findings)
    first, ranked = found.results[0].alignment, found.results[-1]
    assert first.region == "upper left quadrant"
    assert first.spearman.value > 0.9
    assert ranked.auc > 0.9


# The command


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("regions=grid", "name a run: python tools/regions.py -cp"),
        ("-cp x", "name the regions: regions=NAME with one of atlas, boxes"),
        ("-cp x grid", "grid: write regions=NAME"),
        ("-cp x regions=grid -at ris", "-at ris: no such attributor; did you mean rise?"),
        ("-cp x regions=grid -p 3", "--permutations 3: must be 100 or more"),
        ("-cp x regions=grid -sc shar", "invalid choice: 'shar'"),
        ("-cp x regions=grid --splt val", "--splt: no such flag; did you mean --split?"),
    ],
)
def test_mistaken_commands(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        regions_command(line.split())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert regions_command(["--help"]) == 0
    said = capsys.readouterr().out
    assert "lung_zones" in said
    assert "--contrast" in said


def test_the_table_has_a_row_per_image_method_and_region() -> None:
    table = measured().table()
    assert len(table) == 32 * 2 * 4
    assert isinstance(table, pd.DataFrame)
    one = table[
        (table["id"] == "image <3>") & (table["method"] == "inverse") & (table["region"] == "upper left quadrant")
    ]
    assert one["share"].item() == pytest.approx(measured().scores["share"][3, 1, 0])
