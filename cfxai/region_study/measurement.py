"""Every map of a study, measured in the same regions and asked the same question about every image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cfxai.data.dataset import Dataset
from cfxai.errors import DataError, UnsuitableError
from cfxai.protocols import NORMAL, Attributor, Counterfactual, Explainer, Regions, Saliency, Target
from cfxai.regions.body import find_body
from cfxai.regions.scores import area_pool, published_scores, scores
from cfxai.run.progress import Track

SCORES = ("share", "enrichment", "mean", "positive", "negative")
"""Of `regions.scores.RegionScores`; `area` is in the table too."""
KEPT = (*SCORES, "published", "coarse")
COARSE = 32
"""Cells along each axis of the maps that are kept of every image, to move regions about in."""
OUTCOMES = {(True, True): "TP", (True, False): "FN", (False, False): "TN", (False, True): "FP"}


@dataclass(frozen=True)
class Case:
    """One image to look at: [c *spatial], its regions [r *spatial], and each method's map [*spatial]."""

    image: Tensor
    regions: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Coarse:
    """What is kept of every image at a low resolution: |map| [n m *cells], regions [n r *cells], body [n *cells]."""

    maps: Float[np.ndarray, "n m *cells"]
    regions: Float[np.ndarray, "n r *cells"]
    body: Float[np.ndarray, "n *cells"]


@dataclass(frozen=True)
class Measured:
    """What was found in n images with m methods in r regions.

    Attributes:
        images: one row per image: id, patient, label, outcome (TP, FN, TN, FP of the classifier), probability
            of being abnormal, and score, the target's.
        methods, regions: names.
        scores: name -> [n m r]; `area` is the same for every method. `published` is the mean of |map| in the regions.
        coarse: the maps themselves.
        refused: method -> why it has no map of this network.
        cases: row of `images` -> what is shown of it.
    """

    images: pd.DataFrame
    methods: tuple[str, ...]
    regions: tuple[str, ...]
    scores: Mapping[str, Float[np.ndarray, "n m r"]]
    coarse: Coarse
    refused: Mapping[str, str]
    cases: Mapping[int, Case]

    @property
    def abnormal(self) -> Int[np.ndarray, " n"]:
        return (self.images["label"].to_numpy() != NORMAL).astype(int)

    def only(self, methods: Sequence[str]) -> "Measured":
        """The same of some methods, in this order."""
        chosen = [self.methods.index(method) for method in methods]
        scores = {name: values[:, chosen] for name, values in self.scores.items()}
        cells = replace(self.coarse, maps=self.coarse.maps[:, chosen])
        return replace(self, methods=tuple(methods), scores=scores, coarse=cells)

    def table(self) -> pd.DataFrame:
        """One row per image, method and region."""
        n, m, r = next(iter(self.scores.values())).shape
        rows = self.images.loc[self.images.index.repeat(m * r)].reset_index(drop=True)
        rows["method"] = np.tile(np.repeat(self.methods, r), n)
        rows["region"] = np.tile(self.regions, n * m)
        for name, values in self.scores.items():
            rows[name] = values.reshape(-1)
        return rows


def measure(
    explainers: Mapping[str, Explainer | Attributor],
    classifier: nn.Module,
    dataset: Dataset,
    regions: Regions,
    target: Target,
    device: torch.device,
    *,
    indices: Sequence[int],
    batch_size: int,
    show: Sequence[int] = (),
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """Scores of every method's map in every region of the images at `indices`.

    Attributors answer `target` for every image, whatever its label, so that maps of normal and abnormal images can be
    compared; of a method that makes counterfactuals, |x - x_cf| is the map. Methods that refuse the network are left
    out.

    Raises:
        DataError: regions that no image has.
        UnsuitableError: every method refuses.
    """
    rows = _Rows(set(show))
    parts: dict[str, dict[str, list[Tensor]]] = {name: {score: [] for score in KEPT} for name in explainers}
    refused: dict[str, str] = {}
    with Track("measuring", len(indices)) as track:
        for chosen, batch in batches(dataset, indices, batch_size, device):
            tick()
            inside, first = regions(batch), len(rows.images)
            rows.add(chosen, batch, inside, dataset, classifier, target)
            for name, explainer in explainers.items():
                if name in refused:
                    continue
                try:
                    saliency = mapped(explainer, batch["image"], target, dataset.channel)
                except UnsuitableError as error:
                    refused[name] = str(error)
                    continue
                found = scores(saliency, inside)
                for score in SCORES:
                    parts[name][score].append(getattr(found, score).cpu())
                parts[name]["published"].append(published_scores(saliency.abs(), inside).cpu())
                parts[name]["coarse"].append(coarse(saliency.abs()[:, None])[:, 0])
                for position, one in enumerate(saliency):
                    if first + position in rows.cases:
                        rows.cases[first + position].maps[name] = one.cpu()
            track.advance(by=len(chosen))
    return _assembled(rows, {name: found for name, found in parts.items() if name not in refused}, regions, refused)


def _assembled(
    rows: "_Rows", found: Mapping[str, Mapping[str, list[Tensor]]], regions: Regions, refused: Mapping[str, str]
) -> Measured:
    area, places, body = (torch.cat(parts).numpy() for parts in (rows.areas, rows.regions, rows.bodies))
    if not area.any():
        raise DataError("regions: no image has any of them; look at the data, or choose other regions.")
    if not found:
        raise UnsuitableError(" ".join(f"{name}: {why}" for name, why in refused.items()))
    stacked = {name: np.stack([torch.cat(parts[name]).numpy() for parts in found.values()], 1) for name in KEPT}
    maps = Coarse(stacked.pop("coarse"), places, body)
    stacked["area"] = np.repeat(area[:, None], len(found), 1)
    images = pd.DataFrame(rows.images)
    return Measured(images, tuple(found), tuple(regions.names), stacked, maps, refused, rows.cases)


def mapped(explainer: Explainer | Attributor, image: Tensor, target: Target, channel: int | None = None) -> Saliency:
    """The map of a batch: the attribution of `target`, or |x - x_cf| towards the normal class."""
    if isinstance(explainer, Explainer):
        made = explainer.generate(image, torch.full((len(image),), NORMAL, device=image.device))
        return Counterfactual(made.image, made.counterfactual, made.target, channel=channel).difference
    return explainer.attribute(image, target)


def batches(
    dataset: Dataset, indices: Sequence[int], batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The images at `indices`, with the indices of each batch."""
    for start in range(0, len(indices), batch_size):
        chosen = list(indices[start : start + batch_size])
        yield chosen, {k: v.to(device) if isinstance(v, Tensor) else v for k, v in dataset.batch(chosen).items()}


def coarse(maps: Tensor) -> Tensor:
    """[b k *spatial] averaged to at most `COARSE` cells along each axis."""
    return area_pool(maps.float(), tuple(min(COARSE, length) for length in maps.shape[2:])).cpu()


class _Rows:
    """What is known of the images before any map, in the order in which they are measured."""

    def __init__(self, show: set[int]) -> None:
        self.show = show
        self.images: list[dict[str, Any]] = []
        self.cases: dict[int, Case] = {}
        self.areas: list[Tensor] = []
        self.regions: list[Tensor] = []
        self.bodies: list[Tensor] = []

    def add(
        self,
        chosen: Sequence[int],
        batch: Mapping[str, Any],
        inside: Tensor,
        dataset: Dataset,
        classifier: nn.Module,
        target: Target,
    ) -> None:
        with torch.no_grad():
            logits = classifier(batch["image"]).float()
        abnormal, score = 1 - logits.softmax(1)[:, NORMAL], target.score(logits)
        self.areas.append(inside.flatten(2).mean(2).cpu())
        self.regions.append(coarse(inside))
        self.bodies.append(coarse(find_body(batch["image"])[:, None])[:, 0])
        for position, index in enumerate(chosen):
            if index in self.show:
                self.cases[len(self.images)] = Case(batch["image"][position].cpu(), inside[position].cpu())
            label = int(batch["label"][position])
            called = int(logits[position].argmax()) != NORMAL
            self.images.append({
                "id": dataset.ids[index],
                "patient": dataset.groups[index],
                "label": label,
                "outcome": OUTCOMES[label != NORMAL, called],
                "probability": float(abnormal[position]),
                "score": float(score[position]),
            })  # fmt: skip
