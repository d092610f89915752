"""What an attributor's maps depend on: the classifier's weights, the class asked about, small changes of the image."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfxai.data.dataset import Dataset
from cfxai.errors import NumericsError, UnsuitableError
from cfxai.metrics.robustness import infidelity, max_sensitivity
from cfxai.metrics.sanity import Stage, random_logit, weight_randomisation
from cfxai.metrics.similarity import rank_correlation
from cfxai.protocols import Attributor, Image, Labels, Regions, Saliency
from cfxai.regions.scores import scores
from cfxai.run.progress import Track
from cfxai.viz import Picture, cut, grey, telling_slice

log = logging.getLogger("cfxai")

STAGES = 6
"""Of the cascading randomisation; the last has all layers random."""


@dataclass(frozen=True)
class Checked:
    """One attributor, checked.

    Attributes:
        numbers: means over the images; None where no image defines a value.
        pictures: the first image and its maps: of the trained classifier, at each stage, and of another class.
    """

    numbers: dict[str, Any]
    pictures: dict[str, Picture]


Make = Callable[[nn.Module], Attributor]
"""Makes an attributor for a classifier."""


def check_attributors(
    makers: Mapping[str, Make],
    classifier: nn.Module,
    dataset: Dataset,
    indices: Sequence[int],
    device: torch.device,
    *,
    regions: Regions | None = None,
    seed: int = 0,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Checked]:
    """`check` of each attributor by name, with a progress line; `between` is called after every image.

    One that refuses a randomised classifier, or has no finite map of it, is named and left out. Nothing is checked
    without attributors or images.
    """
    if not makers or not indices:
        log.warning("sanity: no saliency map to check; name attributors by -at or evaluation.attributors")
        return {}
    found: dict[str, Checked] = {}
    for name, make in makers.items():
        with Track(f"checking {name}", len(indices)) as track:

            def tick(track: Track = track) -> None:
                track.advance(by=1)
                between()

            try:
                found[name] = check(make, classifier, dataset, indices, device, regions=regions, seed=seed, tick=tick)
            except (UnsuitableError, NumericsError) as error:
                log.warning("sanity: %s cannot be checked. %s", name, error)
    return found


def check(
    make: Make,
    classifier: nn.Module,
    dataset: Dataset,
    indices: Sequence[int],
    device: torch.device,
    *,
    regions: Regions | None = None,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Checked:
    """Robustness and sanity of the attributor that `make` makes, over `indices` and asked about each image's label.

    Images go one by one, since some attributors take hundreds of versions of each.

    Args:
        make: called with the classifier itself, then with randomised copies of it.
        regions: whose scores are compared too, before and after all layers are random.

    Raises:
        UnsuitableError: the method would be wrong for this network.
    """
    attribute = make(classifier).attribute
    found: list[dict[str, float]] = []
    stages: list[list[Stage]] = []
    shares: tuple[list[Tensor], list[Tensor]] = ([], [])
    pictures: dict[str, Picture] = {}
    for index in indices:
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in dataset.batch([index]).items()}
        image, label = batch["image"], batch["label"]
        cascade = list(
            weight_randomisation(lambda c: make(c).attribute, classifier, image, label, stages=STAGES, seed=seed)
        )
        with torch.no_grad():
            classes = classifier(image).shape[1]
        other, likeness = random_logit(attribute, image, label, classes, seed=seed)
        found.append(
            {
                "random_logit_spearman": float(likeness.spearman),
                "random_logit_ssim": float(likeness.ssim),
                "max_sensitivity": float(max_sensitivity(attribute, image, label, seed=seed)),
                "infidelity": float(infidelity(attribute, _logit(classifier, label), image, label, seed=seed)),
            }
        )
        stages.append(cascade)
        original = attribute(image, label)
        if regions is not None:
            where = regions(batch)
            for table, saliency in zip(shares, (original, cascade[-1].maps), strict=True):
                table.append(scores(saliency, where).share)
        if not pictures:
            pictures = _pictures(batch, original, cascade, other)
        tick()
    numbers: dict[str, Any] = {"images": len(found)}
    numbers["randomised"] = [_summary(same) for same in zip(*stages, strict=True)]
    numbers["randomised_spearman"] = numbers["randomised"][-1]["spearman"]
    numbers["randomised_ssim"] = numbers["randomised"][-1]["ssim"]
    numbers["randomised_regions"] = _mean([rank_correlation(*map(torch.cat, shares))]) if regions is not None else None
    numbers |= {name: _mean([one[name] for one in found]) for name in found[0]}
    return Checked(numbers, pictures)


def _logit(classifier: nn.Module, label: Labels) -> Callable[[Image], Tensor]:
    return lambda image: classifier(image).gather(1, label[:, None])[:, 0]


def _summary(stages: Sequence[Stage]) -> dict[str, Any]:
    """The same stage of all images."""
    return {
        "layer": stages[0].layer,
        "layers": stages[0].layers,
        "spearman": _mean([float(stage.similarity.spearman) for stage in stages]),
        "ssim": _mean([float(stage.similarity.ssim) for stage in stages]),
    }


def _mean(values: Sequence[float]) -> float | None:
    there = torch.tensor(values, dtype=torch.double)
    return float(there.nanmean()) if not there.isnan().all() else None


def _pictures(
    batch: Mapping[str, Any], original: Saliency, cascade: Sequence[Stage], other: Saliency
) -> dict[str, Picture]:
    """Of a volume one slice: where the lesion is largest, else the middle one."""
    image = batch["image"][0].cpu().numpy()
    truth = batch["mask"][0].cpu().numpy() if "mask" in batch else np.zeros_like(image[0], bool)
    number = telling_slice(truth)
    maps = {"trained": original, **{stage.layer: stage.maps for stage in cascade}, "another class": other}
    drawn = {f"~{name}": cut(saliency[0].abs().cpu().numpy(), number) for name, saliency in maps.items()}
    return {"x": grey(image, number), **drawn}
