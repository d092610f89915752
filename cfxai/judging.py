"""The one path from any explainer to a number: explain, normalise, threshold, measure.

Counterfactuals and saliency maps become a map here, the map becomes a mask, and the same metrics judge them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.data.dataset import Dataset
from cfxai.data.geometry import Axis
from cfxai.masks.threshold import Threshold
from cfxai.metrics.both_ways import BothWays
from cfxai.metrics.change import Change
from cfxai.metrics.classification import ClassifierQuality
from cfxai.metrics.faithfulness import DeletionInsertion, Road
from cfxai.metrics.latent import LatentQuality
from cfxai.metrics.localisation import Localisation
from cfxai.metrics.realism import Realism
from cfxai.metrics.region_flipping import RegionFlipping
from cfxai.metrics.sparseness import Sparseness
from cfxai.protocols import (
    NORMAL,
    Attributor,
    Counterfactual,
    Explainer,
    Image,
    Labels,
    Logits,
    Metric,
    Result,
    goes_both_ways,
)

FAITHFULNESS = ("deletion_insertion", "road", "localisation", "sparseness")
"""What judges a map beside its mask, by name in `conf/metrics`."""
EITHER_WAY = (BothWays, Change)
"""Metrics that count counterfactuals for the abnormal class, too."""
WITHOUT_MASK = (
    *(Realism, DeletionInsertion, Road, RegionFlipping, Localisation, Sparseness, LatentQuality),
    *EITHER_WAY,
)
"""Metrics that are the same under every threshold."""


class LesionFree:
    """The ceiling: the true lesion-free image of the same patient as the counterfactual, where the data have one."""

    def __init__(self) -> None:
        self.healthy: Image | None = None

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        assert self.healthy is not None
        return Counterfactual(image, self.healthy, target)


@dataclass
class Judged:
    """What was found about one explainer: its metrics, its masks and the pictures asked for.

    Attributes:
        shown: by index in the split. made_abnormal: the same of normal images, where the explainer goes both ways.
    """

    metrics: dict[str, Any]
    masks: np.ndarray | None
    shown: dict[int, Result] = field(default_factory=dict)
    made_abnormal: dict[int, Result] = field(default_factory=dict)


def maps(
    explainer: Explainer | Attributor,
    dataset: Dataset,
    indices: Sequence[int],
    device: torch.device,
    batch_size: int,
    *,
    abnormal: bool = False,
) -> Iterator[tuple[list[int], Mapping[str, Any], Tensor, Counterfactual | None, float]]:
    """Explains images batch by batch: (indices, batch, map [b *spatial], counterfactual or None, seconds).

    An explainer is asked for the normal class, or if `abnormal` for each image's own abnormal class, of a normal image
    the first one; an attributor about the image's own abnormal label, and only what speaks for that label counts: this
    is the only place that knows.
    """
    for start in range(0, len(indices), batch_size):
        chosen = list(indices[start : start + batch_size])
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in dataset.batch(chosen).items()}
        image, label = batch["image"], batch["label"]
        began = time.perf_counter()
        if isinstance(explainer, Explainer):
            if isinstance(explainer, LesionFree):
                explainer.healthy = batch["healthy"]
            target = label.clamp_min(NORMAL + 1) if abnormal else torch.full_like(label, NORMAL)
            counterfactual: Counterfactual | None = explainer.generate(image, target)
            assert counterfactual is not None
            counterfactual = replace(counterfactual, channel=dataset.channel)
            saliency = counterfactual.difference
        else:
            counterfactual, saliency = None, explainer.attribute(image, label).clamp_min(0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield chosen, batch, saliency, counterfactual, time.perf_counter() - began


def metric_factory(
    parts: Parts, configs: Mapping[str, Any], *, skip_realism: bool, **offered: Any
) -> Callable[[], dict[str, Metric]]:
    """Makes a fresh set of the configured metrics whenever asked; `offered` fills their parameters by name."""
    chosen = {name: node for name, node in configs.items() if not (skip_realism and name == "realism")}
    return lambda: {name: parts.fresh(node, f"metrics.{name}", **offered) for name, node in chosen.items()}


def faithfulness_metrics(parts: Parts) -> dict[str, Any]:
    """The configs of `FAITHFULNESS`, with regions also of flipping them."""
    names = [*FAITHFULNESS, *(["region_flipping"] if "regions" in parts else [])]
    return {name: OmegaConf.load(CONF / "metrics" / f"{name}.yaml") for name in names}


@torch.no_grad()
def probabilities(classifier: nn.Module, image: Image) -> Logits:
    """The classifier's softmax."""
    return classifier(image).float().softmax(1)


def classifier_quality(
    classifier: nn.Module, dataset: Dataset, indices: Sequence[int], device: torch.device, batch_size: int
) -> dict[str, Any]:
    """The metrics of `ClassifierQuality` over `indices`."""
    metric = ClassifierQuality()
    for start in range(0, len(indices), batch_size):
        batch = dataset.batch(indices[start : start + batch_size])
        image, label = batch["image"].to(device), batch["label"].to(device)
        unmarked = torch.zeros(len(image), *image.shape[2:], device=device)
        group = tuple(batch["group"])
        metric.update(Result(image, label, unmarked, unmarked.bool(), group, probabilities(classifier, image)))
    return metric.compute()


def explanations(explainer: Explainer | Attributor) -> int:
    """How many times `judge` has each image explained: once, or once in each direction."""
    return 2 if goes_both_ways(explainer) else 1


def judge(
    explainer: Explainer | Attributor,
    classifier: nn.Module,
    dataset: Dataset,
    device: torch.device,
    *,
    extractors: Mapping[str, Threshold],
    metrics: Callable[[], Mapping[str, Metric]],
    indices: Sequence[int],
    batch_size: int,
    show: Sequence[int] = (),
    keep_masks: bool = False,
    tick: Callable[[int], None] = lambda n: None,
) -> Judged:
    """Every metric of one explainer over `indices`, under each of several thresholds (the first is the main one).

    The main extractor's metrics are the result's keys; each extractor's are also under its own name. `tick` is called
    with the numbers of images explained, `explanations` times all of them.
    """
    main = next(iter(extractors))
    # What does not depend on the mask is not measured again under a further threshold: it passes every image.
    measured = {
        name: {key: metric for key, metric in metrics().items() if name == main or not isinstance(metric, WITHOUT_MASK)}
        for name in extractors
    }
    masks = np.zeros((len(dataset), *dataset.images.shape[2:]), bool) if keep_masks else None
    shown: dict[int, Result] = {}
    seconds = 0.0
    for chosen, batch, saliency, counterfactual, spent in maps(explainer, dataset, indices, device, batch_size):
        seconds += spent
        before = probabilities(classifier, batch["image"])
        after = probabilities(classifier, counterfactual.counterfactual) if counterfactual is not None else None
        returned = _returned(explainer, counterfactual, batch["label"])
        cases, voxels = zip(*(_case(dataset, index) for index in chosen), strict=True)
        for name, extract in extractors.items():
            result = Result(
                image=batch["image"],
                label=batch["label"],
                saliency=extract.normalised(saliency),
                mask=extract(saliency),
                group=tuple(batch["group"]),
                probability=before,
                truth=batch.get("mask"),
                counterfactual=counterfactual,
                counterfactual_probability=after,
                case=cases,
                voxel_mm3=voxels,
                grade=batch.get("grade"),
                returned=returned,
            )
            for metric in measured[name].values():
                metric.update(result)
            if name == main:
                if masks is not None:
                    masks[chosen] = result.mask.cpu().numpy()
                for position, index in enumerate(chosen):
                    if index in show:
                        shown[index] = _single(result, position)
        tick(len(chosen))
    made_abnormal = {}
    if goes_both_ways(explainer):
        either_way = [metric for metric in measured[main].values() if isinstance(metric, EITHER_WAY)]
        made_abnormal = _judge_made_abnormal(
            explainer, classifier, dataset, device, extractors[main], either_way, indices, batch_size, show, tick
        )
    blocks = {name: {k: v for m in group.values() for k, v in m.compute().items()} for name, group in measured.items()}
    result_metrics = {**blocks[main], "threshold": extractors[main].threshold}
    result_metrics["seconds_per_image"] = seconds / max(1, len(indices))
    for name, extract in extractors.items():
        result_metrics[name] = {"threshold": extract.threshold, **_segmentation(blocks[name])}
    return Judged(result_metrics, masks, shown, made_abnormal)


def _judge_made_abnormal(
    explainer: Explainer | Attributor,
    classifier: nn.Module,
    dataset: Dataset,
    device: torch.device,
    extract: Threshold,
    metrics: Sequence[Metric],
    indices: Sequence[int],
    batch_size: int,
    show: Sequence[int],
    tick: Callable[[int], None],
) -> dict[int, Result]:
    """Updates the metrics with counterfactuals for the abnormal class; returns those of the normal images to show."""
    shown: dict[int, Result] = {}
    for chosen, batch, saliency, changed, _ in maps(explainer, dataset, indices, device, batch_size, abnormal=True):
        assert changed is not None
        result = Result(
            image=batch["image"],
            label=batch["label"],
            saliency=extract.normalised(saliency),
            mask=extract(saliency),
            group=tuple(batch["group"]),
            probability=probabilities(classifier, batch["image"]),
            counterfactual=changed,
            counterfactual_probability=probabilities(classifier, changed.counterfactual),
            grade=batch.get("grade"),
            returned=_returned(explainer, changed, batch["label"]),
        )
        for metric in metrics:
            metric.update(result)
        for position, index in enumerate(chosen):
            if index in show and dataset.labels[index] == NORMAL:
                shown[index] = _single(result, position)
        tick(len(chosen))
    return shown


def _returned(explainer: Explainer | Attributor, changed: Counterfactual | None, label: Labels) -> Image | None:
    """The way back to its own class of each image that is to leave it; the others stay where they were led."""
    if changed is None or not isinstance(explainer, Explainer) or not goes_both_ways(explainer):
        return None
    returned, moved = changed.counterfactual.clone(), changed.target != label
    if moved.any():
        returned[moved] = explainer.generate(returned[moved], label[moved]).counterfactual
    return returned


def _segmentation(block: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that depend on the threshold."""
    names = ("iou", "iou_ci", "dice", "precision", "recall", "iou_per_image", "iou_per_case", "normal_changed_area")
    return {name: block[name] for name in names if name in block}


def _case(dataset: Dataset, index: int) -> tuple[str, float | None]:
    """The volume that an image is or comes from, and how many mm³ a pixel stands for; of a picture, patient and None.

    The determinant of a volume's affine is the size of its voxels, whichever way the slices were cut.
    """
    source = dataset.origin.sources[index]
    geometry = dataset.origin.geometry.get(source, {})
    if geometry.get("affine") is None:
        return dataset.groups[index], None
    voxel = abs(np.linalg.det(np.asarray(geometry["affine"])[:3, :3]))
    return source, float(voxel * np.prod([Axis(**axis).step for axis in geometry["axes"]]))


def _single(result: Result, position: int) -> Result:
    """One image of a batch's result, on the CPU."""

    def one(value: Tensor | None) -> Any:
        return None if value is None else value[position : position + 1].detach().cpu()

    cf = result.counterfactual
    return Result(
        image=one(result.image),
        label=one(result.label),
        saliency=one(result.saliency),
        mask=one(result.mask),
        group=(result.group[position],),
        probability=one(result.probability),
        truth=one(result.truth),
        counterfactual=None
        if cf is None
        else Counterfactual(one(cf.image), one(cf.counterfactual), one(cf.target), channel=cf.channel),
        counterfactual_probability=one(result.counterfactual_probability),
        case=result.case and (result.case[position],),
        voxel_mm3=result.voxel_mm3 and (result.voxel_mm3[position],),
        grade=one(result.grade),
        returned=one(result.returned),
    )
