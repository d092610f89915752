"""The experiments of COIN's paper: each has the published settings and builds, and a sweep prints the paper's table."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from processes import Forks

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF, options
from cfxai.config.compose import compose, require_complete
from cfxai.protocols import Method

PAPER = CONF / "coin_paper.yaml"
GLOBAL = {"learning_rate": 2e-4, "betas": [0.0, 0.999], "generator_every": 5, "discriminate": "all", "average": 0.0}
NARROW = ("generator.width=0.01", "discriminator.width=0.01", "classifier.widths=[4,8]")
TINY = (
    *("data.phantom.patients=12", "data.phantom.size=64", "data.phantom.spacing=6.0", "data.phantom.slices=6"),
    *("data.phantom.slice_thickness=16.0", "data.size=32", "data.min_lesion_area=0", "data.min_organ_area=100"),
    *("classifier_training.steps=20", "classifier_training.batch_size=8", "classifier_training.validate_every=10"),
    *("trainer.steps=4", "trainer.batch_size=4", "trainer.validate_every=4", "trainer.validation_images=8"),
    *("metrics.segmentation.resamples=50", "evaluation.panels=2", "evaluation.max_images=20"),
)

SETTINGS = """
experiment              model  perturbation skips reconstruction kl rec tv   hidden_l1 base
table3_a                singla no           -     CARL           1  1   0    0         synthetic
table3_b                singla yes          -     CARL           1  1   0    0         synthetic
table3_c                singla yes          1     CARL           1  1   0    0         synthetic
table3_d                singla yes          12    CARL           1  1   0    0         synthetic
table3_e                singla yes          123   CARL           1  1   0    0         synthetic
table3_f                singla yes          1234  CARL           1  1   0    0         synthetic
table3_g                singla yes          1234  L1             1  1   0    0         synthetic
table3_h                singla no           1234  L1             1  1   0    0         synthetic
table3_coin             v1     yes          1234  L1+cyc(x)      5  1   .05  1         synthetic
table1_synth_coin       v1     yes          1234  L1+cyc(x)      5  1   .05  1         synthetic
table1_synth_singla     singla no           1234  L1             1  1   0    0         synthetic
table1_tuh_coin         v1     yes          1234  L1+cyc(x)      1  1   5e-5 0         tumours
table1_tuh_singla       singla no           1234  L1             1  1   0    0         tumours
tuh_singla_perturbation singla yes          1234  L1             1  1   0    0         tumours
singla_whole_image      singla no           1234  CARL           1  1   0    0         synthetic
coin_v2                 v2     yes          1234  L1+cyc(x_cf)   5  1   .05  0         synthetic
ablation_none           v1     yes          1234  L1+cyc(x)      5  1   .05  1         synthetic
ablation_kl0            v1     yes          1234  L1+cyc(x)      0  1   .05  1         synthetic
ablation_rec0           v1     yes          1234  L1+cyc(x)      5  0   .05  1         synthetic
ablation_rec0_true      v1     yes          1234  L1+cyc(x)      5  0   .05  0         synthetic
ablation_tv0            v1     yes          1234  L1+cyc(x)      5  1   0    1         synthetic
"""
HEADER, *LINES = (line.split() for line in SETTINGS.strip().splitlines())
EXPERIMENTS = {line[0]: dict(zip(HEADER, line, strict=True)) for line in LINES}
CLASSIFIERS = ("classifier_synth", "classifier_tumours", "classifier_cysts")

PRINTED = {
    "table3_a": (1.6190, 0.992, 0.020),
    "table3_b": (0.5500, 0.934, 0.086),
    "table3_c": (0.3254, 0.968, 0.284),
    "table3_d": (0.1751, 0.933, 0.480),
    "table3_e": (0.0849, 0.961, 0.463),
    "table3_f": (0.0253, 0.9542, 0.509),
    "table3_g": (0.0493, 0.996, 0.528),
    "table3_h": (0.0466, 0.998, 0.445),
    "table3_coin": (0.0029, 0.997, 0.646),
    "ablation_none": (0.0029, 0.997, 0.646),
    "table1_synth_singla": (0.047, 0.998, 0.445),
    "table1_synth_coin": (0.003, 0.997, 0.646),
    "table1_tuh_singla": (0.203, 0.992, 0.352),
    "table1_tuh_coin": (0.036, 0.980, 0.432),
}
SALIENCY = {
    "table1_synth_coin": {"score_cam": 0.030, "layer_cam": 0.026, "rise": 0.397},
    "table1_tuh_coin": {"score_cam": 0.293, "layer_cam": 0.296, "rise": 0.294},
}


def experiment(name: str, *lines: str) -> DictConfig:
    return compose(PAPER, [f"experiment/coin={name}", *lines])


def published(name: str) -> dict[str, Any]:
    """The row of `SETTINGS` in our terms."""
    said = EXPERIMENTS[name]
    singla, synthetic = said["model"] == "singla", said["base"] == "synthetic"
    return GLOBAL | {
        "direction": "both" if singla else "normal",
        "condition": "called" if said["model"] == "v2" else "wanted",
        "reconstruct": "self" if singla else "change",
        "cyclic": {"L1+cyc(x)": "image", "L1+cyc(x_cf)": "counterfactual"}.get(said["reconstruction"]),
        "distance": "carl" if said["reconstruction"] == "CARL" else "l1",
        "organ_masks": said["reconstruction"] == "CARL",
        "fusion": "skip_add_tanh" if said["perturbation"] == "yes" else "tanh",
        "skips": [int(digit) for digit in said["skips"].replace("-", "")],
        **{"adv": 1.0, "minc": float(said["hidden_l1"]), **{term: float(said[term]) for term in ("kl", "rec", "tv")}},
        **{"adversarial": "bce", "consistency": "clamped", "variation": "squared"},
        "upsample": "nearest" if synthetic else "bilinear",
        "spectral": synthetic,
        "blocks": 6 if synthetic else 5,
        "balanced": not synthetic,
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_the_published_settings_and_builds(name: str) -> None:
    cfg, said = experiment(name, *NARROW), published(name)
    require_complete(cfg)
    settings = {
        k: v for part in (cfg.method, cfg.generator, cfg.discriminator, cfg.loss, cfg.data) for k, v in part.items()
    }
    settings |= {"balanced": cfg.trainer.balanced, "cyclic": settings["cyclic"] if said["cyclic"] else None}
    assert {key: settings[key] for key in said} == said
    assert isinstance(Parts(cfg)["method"], Method)
    printed = tuple(cfg.paper[key] for key in ("fid", "cv", "iou"))
    assert printed == PRINTED.get(name, (None, None, None))
    assert cfg.paper.row
    assert dict(cfg.paper.attributors) == SALIENCY.get(name, {})
    assert set(SALIENCY.get(name, {})) == set(cfg.evaluation.attributors)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_experiment_trains_nothing_else(name: str) -> None:
    cfg = experiment(name, *NARROW)
    assert not cfg.method
    assert cfg.data.lesion_labels == ([3] if name == "classifier_cysts" else [2])
    assert Parts(cfg)["classifier"](torch.zeros(1, 1, 32, 32)).shape == (1, 2)
    assert cfg.paper.row is None


def test_all_published_configurations_are_there() -> None:
    """Each experiment is one or several of the 24, or one that we add."""
    several = {"table3_b": 2, "table3_f": 3}
    added = {"ablation_rec0_true", "table1_synth_coin", "table1_synth_singla"}  # the last two are rows of Table 3
    names = {*EXPERIMENTS, *CLASSIFIERS}
    assert names == set(options("experiment/coin"))
    assert sum(several.get(name, 1) for name in names - added) == 24


@pytest.mark.parametrize(
    ("name", "size", "classifier", "generator", "discriminator"),
    [
        ("table3_coin", "paper_synth", "resnet18", 19_581_504 + 33_525_441, 38_419_905),
        ("table3_a", "paper_synth", "resnet18", 19_581_504 + 30_040_001, 38_419_905),
        ("table1_tuh_coin", "paper_tuh", "efficientnet_v2_s", 19_581_504 + 33_525_441, 19_543_489),
    ],
)
def test_the_published_size(name: str, size: str, classifier: str, generator: int, discriminator: int) -> None:
    cfg = experiment(name, f"experiment/size={size}", "data=totalsegmentator", "data.manifest=scans.csv")
    assert (cfg.data.size, cfg.trainer.batch_size, cfg.classifier.name) == (256, 16, classifier)
    assert cfg.data.organ_masks == (name == "table3_a")
    cfg.classifier.pretrained = False
    with torch.device("meta"):
        method = Parts(cfg)["method"]
    counts = [sum(p.numel() for p in network.parameters()) for network in (method.generator, method.discriminator)]
    assert counts == [generator, discriminator]


def test_a_sweep_prints_the_papers_table_beside_ours(tmp_path: Path) -> None:
    with Forks(tmp_path) as forks:
        said = forks.run(
            "train", "-c", str(PAPER), *NARROW, *TINY, "run.name=sweep", "-m", "experiment/coin=table3_a,table3_coin"
        )
    sweep = tmp_path / "runs/sweep"
    with open(sweep / "sweep.csv", newline="") as file:
        assert [row["experiment/coin"] for row in csv.DictReader(file)] == ["table3_a", "table3_coin"]
    with open(sweep / "paper.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["table"], row["row"], row["paper_iou"]) for row in rows] == [
        ("3", "A", "0.02"),
        ("3", "COIN", "0.646"),
    ]
    for number, row in enumerate(rows):
        found = json.loads((sweep / str(number) / "evaluation/metrics.json").read_text())["explainers"]["coin"]
        assert float(row["iou_fixed"]) == found["fixed"]["iou"]
        assert float(row["iou_auto"]) == found["auto"]["iou"]
        assert float(row["flip_rate"]) == found["flip_rate"]
    assert "the paper's numbers beside ours" in said
    assert "│ 3, COIN: one-way" in said
    assert "│ 0.0029 │ 0.997 │ 0.646 │" in said
