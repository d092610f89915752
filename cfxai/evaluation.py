"""evaluate(run): every explainer of a run, judged on the held-out split by `judging`; table, panels, masks, JSON."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cfxai.classifier_judging import judge_classifier
from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF, options
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.evaluation_files import Findings, write_evaluation
from cfxai.judging import LesionFree, explanations, faithfulness_metrics, judge, metric_factory
from cfxai.nn.features import penultimate
from cfxai.nn.weights import digest, load_weights
from cfxai.protocols import NORMAL, Attributor, Explainer, Graded
from cfxai.run.checkpoint import load_checkpoint, restore
from cfxai.run.directory import Run, continue_command, locked, shown
from cfxai.run.locate import locate
from cfxai.run.progress import Track
from cfxai.sanity_checks import check_attributors
from cfxai.selection import shown_cases, spaced
from cfxai.settings import Settings
from cfxai.sweeps import sweep_abnormal
from cfxai.thresholds import extractors

log = logging.getLogger("cfxai")

APPLICABLE = (
    "iou", "iou_ci", "iou_per_case", "dice", "pixel_auprc", "pointing_game", "flip_rate", "counterfactual_validity",
    "l1", "normal_changed_area", "fid", "kid", "threshold", "seconds_per_image", "flip_rate_to_normal",
    "flip_rate_to_abnormal", "oracle_flip_rate", "high_frequency_energy", "cycle_l1", "ssim",
)  # fmt: skip
"""What every explainer has in metrics.json, null where it does not apply."""

BESIDE = CEILING, CONTROL = "ceiling", "control"
"""What is judged beside the explainers: the true lesion-free image, and a change that explains nothing."""


def evaluate(path: Path, **asked: Any) -> dict[str, Any]:
    """Judges a run (or one checkpoint of it) and writes `<run>/evaluation/`.

    Args:
        path: the run's directory, or a file in its checkpoints/.
        asked: fields of `Settings` to set otherwise than the run's own config; None = as that says.

    Raises:
        ConfigError: not a run, or an unknown attributor, or another process is at work in the run.
        DataError: the data changed or cannot be read.
    """
    directory, checkpoint = locate(path)
    run = Run(directory)
    with locked(directory):
        cfg = load_config(run)
        chosen = {name: value for name, value in asked.items() if value is not None}
        parts = load_parts(cfg, run)
        if cfg.method:
            tensors, state = load_checkpoint(checkpoint or best_checkpoint(run))
            restore(parts["method"], tensors, state)
        return evaluate_parts(parts, cfg, run, settings_of(cfg, **chosen))


def settings_of(cfg: DictConfig, **chosen: Any) -> Settings:
    """The settings that a config describes, except those `chosen` here."""
    described = {str(name): value for name, value in cfg.evaluation.items()}
    return Settings(**(described | chosen))


def load_config(run: Run) -> DictConfig:
    cfg = OmegaConf.load(run.directory / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return cfg


def best_checkpoint(run: Run) -> Path:
    for name in ("best.ckpt", "last.ckpt"):
        if (run.checkpoints / name).is_file():
            return run.checkpoints / name
    raise ConfigError(
        f"{shown(run.directory)}: has no checkpoint yet; train it with {continue_command(run.directory)}."
    )


def load_parts(cfg: DictConfig, run: Run) -> Parts:
    """The run's components, with the classifier that the run explains, whatever became of the file it came from."""
    weights = run.weights / "classifier.safetensors"
    if not weights.is_file():
        advice = continue_command(run.directory)
        raise ConfigError(f"{shown(run.directory)}: its classifier is not trained yet; continue it with {advice}.")
    cfg = cfg.copy()
    if "weights" in cfg.classifier:
        cfg.classifier.weights = str(weights)
    parts = Parts(cfg)
    load_weights(parts["classifier"], weights)
    return parts


def evaluate_parts(parts: Parts, cfg: DictConfig, run: Run, settings: Settings) -> dict[str, Any]:
    """The evaluation proper, on built components."""
    device = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    data: Data = parts["data"]
    classifier: nn.Module = parts["classifier"].to(device).eval().requires_grad_(False)
    dataset, validation = data.split("test"), data.split("val")
    indices = spaced(np.arange(len(dataset)), settings.max_images or len(dataset))
    abnormal = [i for i in indices if dataset.labels[i] != NORMAL]
    show = shown_cases(dataset, indices, settings.panels)
    subjects = build_explainers(parts, cfg, settings, device)
    if subjects and cfg.method and "control" in parts:
        subjects[CONTROL] = parts["control"]
    if subjects and dataset.healthy is not None:
        subjects[CEILING] = LesionFree()
    identity = digest(classifier)

    log.info("judging %s on %s: %d images", ", ".join(subjects) or "the classifier", data.judged, len(indices))
    quality, predictions = judge_classifier(classifier, data, indices, settings, device)
    metrics: dict[str, Any] = {
        "run": shown(run.directory),
        "split": data.judged,
        "images": len(indices),
        "abnormal_images": len(abnormal),
        "patients": len({dataset.groups[i] for i in indices}),
        "cf_threshold": None,
        "cf_threshold_rule": settings.rule,
        "threshold_rules": [],
        "tau": settings.tau,
        "postprocess": settings.postprocess,
        "classifier": {**quality, "sha256": identity},
        "realism": None,
        "explainers": {},
        "refused": {},
        CONTROL: None,
        CEILING: None,
    }
    fresh_metrics = metric_factory(
        parts,
        (faithfulness_metrics(parts) if settings.faithfulness else {}) | dict(cfg.metrics),
        skip_realism=settings.skip_fid,
        tau=settings.tau,
        features=penultimate(classifier),
        name=f"features of the classifier ({identity[:8]}) before its last layer",
        oracle=load_oracle(parts, run, device),
    )

    findings = Findings(metrics, predictions)
    for name, explainer in subjects.items():
        counterfactual = isinstance(explainer, Explainer)
        chosen = indices if counterfactual else abnormal
        try:
            cuts, rule = extractors(explainer, settings, validation, device)
            with Track(f"judging {name}", len(chosen) * explanations(explainer)) as track:

                def tick(count: int, track: Track = track) -> None:
                    track.advance(by=count)
                    run.stop_if_requested()

                judged = judge(
                    explainer, classifier, dataset, device,
                    extractors=cuts, metrics=fresh_metrics, indices=chosen, batch_size=settings.batch_size,
                    show=show, keep_masks=counterfactual and name not in BESIDE, tick=tick,
                )  # fmt: skip
        except UnsuitableError as error:
            metrics["refused"][name] = str(error)
            continue
        findings.cases[name] = judged.metrics.pop("cases", None) or []
        found = {**dict.fromkeys(APPLICABLE), **judged.metrics}
        if name in BESIDE:
            metrics[name] = found
            continue
        metrics["explainers"][name] = found
        if extractor := found.get("extractor"):
            metrics["realism"] = f"{extractor}, counterfactuals of abnormal images against real normal images"
        metrics["threshold_rules"].append(f"{name}: {rule}")
        findings.pictures[name] = judged.shown
        findings.made_abnormal |= judged.made_abnormal
        if counterfactual:
            metrics["cf_threshold"], findings.masks = found["threshold"], judged.masks
        if isinstance(explainer, Graded) and settings.sweep_images:
            findings.swept = sweep_abnormal(
                name, explainer, classifier, dataset, indices, device,
                settings=settings, between=run.stop_if_requested, ruler=load_ruler(parts, run, device),
            )  # fmt: skip
            found |= findings.swept.metrics() if findings.swept else {}
    if subjects and not metrics["explainers"]:
        raise UnsuitableError(" ".join(f"{name}: {why}" for name, why in metrics["refused"].items()))
    if settings.sanity:
        findings.checked = check_attributors(
            {name: attributor_maker(parts, cfg, name) for name in settings.attributors if name in findings.pictures},
            classifier, dataset, spaced(abnormal, settings.sanity_images), device,
            regions=parts["regions"] if "regions" in parts else None,  # noqa: SIM401
            seed=cfg.seed, between=run.stop_if_requested,
        )  # fmt: skip
        for name, one in findings.checked.items():
            metrics["explainers"][name]["sanity"] = one.numbers
    write_evaluation(run, data, findings)
    return metrics


def load_oracle(parts: Parts, run: Run, device: torch.device) -> nn.Module | None:
    """The classifier that was trained by itself to check flips, where the run has one."""
    weights = run.weights / "oracle.safetensors"
    return frozen(parts["oracle"], weights, device) if "oracle" in parts and weights.is_file() else None


def load_ruler(parts: Parts, run: Run, device: torch.device) -> nn.Module | None:
    """The network that was trained to segment lesions, where the run has one."""
    weights = run.weights / "ruler.safetensors"
    return frozen(parts["ruler"]["network"], weights, device) if "ruler" in parts and weights.is_file() else None


def frozen(network: nn.Module, weights: Path, device: torch.device) -> nn.Module:
    """The network as it was trained."""
    load_weights(network, weights)
    return network.to(device).eval().requires_grad_(False)


def build_explainers(
    parts: Parts, cfg: DictConfig, settings: Settings, device: torch.device
) -> dict[str, Explainer | Attributor]:
    """The run's own method first, if it explains, then the attributors asked for."""
    found: dict[str, Explainer | Attributor] = {}
    if cfg.method:
        method, name = parts["method"], parts["method"].name
        method.modules.to(device)
        if isinstance(method, Explainer):
            found[name] = method
        else:
            log.info("%s explains nothing by itself and is not judged", name)
    for name in settings.attributors:
        found[name] = attributor_maker(parts, cfg, name)(parts["classifier"])
    return found


def attributor_maker(parts: Parts, cfg: DictConfig, name: str) -> Callable[[nn.Module], Attributor]:
    """What makes an attributor, as the config or `conf/attribution` describes it, for a classifier.

    Raises:
        ConfigError: there is none of that name.
    """
    file = CONF / "attribution" / f"{name}.yaml"
    node = cfg.attribution[name] if name in cfg.attribution else OmegaConf.load(file) if file.is_file() else None
    if not isinstance(node, DictConfig):
        raise ConfigError(f"-at {name}: no such attributor; there are {', '.join(options('attribution'))}.")
    return lambda classifier: parts.fresh(node, f"attribution.{name}", classifier=classifier)
