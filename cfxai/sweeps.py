"""Does an image become as severe as it was asked to be? Sweeps over the levels of a `Graded` explainer, measured.

After Atad et al. 2024, arXiv:2408.01571, which shows such sweeps; here the size of the lesion is measured in every
rendered image, since what the explainer's own head reads in it proves nothing about the pixels. The run's ruler, a
network that learned to segment lesions, measures it; without one the change of the image does, which counts as lesion
whatever else drifts.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cfxai.data.dataset import Dataset
from cfxai.errors import ConfigError
from cfxai.judging import probabilities
from cfxai.latents.scores import with_intervals
from cfxai.protocols import NORMAL, Graded, Image, Mask
from cfxai.regions.rank_correlation import Ranked
from cfxai.ruler_judging import judge_ruler, segmented
from cfxai.run.progress import Track
from cfxai.selection import spaced
from cfxai.settings import Settings
from cfxai.viz import Picture, animation, grey, panel, telling_slice

log = logging.getLogger("cfxai")

MOST_LEVELS = 9
VISIBLE = 0.1
"""Share of the intensity range from which a difference counts as lesion."""
RULER = "the ruler, a network trained on lesion masks"
LESION_FREE, LEVEL_0 = "the true lesion-free image", "the image rendered at level 0"
"""What tells lesions in rendered images: a network, or their difference from another image."""


@dataclass(frozen=True)
class SweptImage:
    """One image at every level.

    Attributes:
        name: its id in the split. patient: whose it is.
        size: pixels of lesion that were found in the image itself. sizes: [n], in each rendered one.
        before: the classifier's probability that the image is abnormal. after: [n], that each rendered image is.
        picture, pictures: to look at, the image and each rendered one; None and empty for those that are not shown.
    """

    name: str
    patient: str
    size: int
    sizes: Int[np.ndarray, " n"]
    before: float
    after: Float[np.ndarray, " n"]
    picture: Picture | None
    pictures: list[Picture]


@dataclass(frozen=True)
class Swept:
    """All images of a sweep.

    Attributes:
        levels: [n], ascending from normal.
        reference: `RULER`, or what sizes are differences from, where these are above `VISIBLE`.
        ruler: how good the ruler is on real images, see `judge_ruler`; empty without one.
    """

    levels: Float[np.ndarray, " n"]
    reference: str
    images: list[SweptImage]
    ruler: Mapping[str, float | None] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """`rank_correlations`, how many images they are of, `sweep_reference`, and what `judge_ruler` found.

        The level that is itself the reference is left out: its size is 0 whatever the explainer does.
        """
        first = 1 if self.reference == LEVEL_0 else 0
        sizes = np.stack([image.sizes for image in self.images])[:, first:]
        found = rank_correlations(self.levels[first:], sizes, [image.patient for image in self.images])
        about = {"sweep_images": len(self.images), "sweep_reference": self.reference}
        return {**found, **about, "ruler_dice": None, "ruler_spearman": None, "mask_spearman": None, **self.ruler}

    @property
    def measure(self) -> str:
        """How lesions were measured, in a few words."""
        if self.reference == RULER:
            return f"as found by {RULER}"
        return f"whose difference from {self.reference} is above {VISIBLE}"

    def summary(self) -> str:
        """The metrics in a line."""
        found = self.metrics()
        rho, interval = found["sweep_spearman"], found["sweep_spearman_ci"]
        pooled = "undefined" if rho is None else f"{rho:.3f}"
        pooled += "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        line = f"level and lesion size: Spearman {pooled}, per image {found['sweep_spearman_per_image']:.3f}"
        return f"{line}; pixels {self.measure}{self._trust()}"

    def _trust(self) -> str:
        named = {"Dice": "ruler_dice", "Spearman of grade and size": "ruler_spearman", "of true size": "mask_spearman"}
        known = [f"{name} {value:.3f}" for name, key in named.items() if (value := self.ruler.get(key)) is not None]
        return f" (on real images: {', '.join(known)})" if known else ""


def usual_levels(explainer: Graded) -> Float[Tensor, " n"]:
    """9 levels from normal to the worst; of a few grades, every whole and half one."""
    worst = float(explainer.levels(2)[-1])
    of_few_grades = worst.is_integer() and 1 < worst < MOST_LEVELS / 2
    return explainer.levels(2 * int(worst) + 1 if of_few_grades else MOST_LEVELS)


def sweep_abnormal(
    name: str,
    explainer: Graded,
    classifier: nn.Module,
    dataset: Dataset,
    judged: Sequence[int],
    device: torch.device,
    *,
    settings: Settings,
    between: Callable[[], None] = lambda: None,
    ruler: nn.Module | None = None,
) -> Swept | None:
    """`sweep_images` of some abnormal images among those `judged`, with a progress line; `between` is called now and
    then. A `ruler` measures the lesions, and is itself judged on all that are `judged`.

    None, with a warning, without such images, or if the explainer has no scale after all: its classes have no order.
    """
    chosen = spaced([index for index in judged if dataset.labels[index] != NORMAL], settings.sweep_images)
    if not chosen:
        log.warning("%s: no sweep over severity, as there are no abnormal images.", name)
        return None
    with Track(f"sweeping {name}", len(chosen)) as track:

        def tick(count: int) -> None:
            track.advance(by=count)
            between()

        try:
            swept = sweep_images(
                explainer, classifier, dataset, chosen, device,
                batch_size=settings.batch_size, show=spaced(chosen, settings.panels), tick=tick, ruler=ruler,
            )  # fmt: skip
        except ConfigError as error:
            log.warning("%s: no sweep over severity. %s", name, error)
            return None
    if ruler is None:
        return swept
    return replace(swept, ruler=judge_ruler(ruler, dataset, judged, device, batch_size=settings.batch_size))


def sweep_images(
    explainer: Graded,
    classifier: nn.Module,
    dataset: Dataset,
    indices: Sequence[int],
    device: torch.device,
    *,
    batch_size: int,
    show: Sequence[int] = (),
    tick: Callable[[int], None] = lambda n: None,
    ruler: nn.Module | None = None,
) -> Swept:
    """Renders each image of `indices` at every usual level and measures its lesion.

    Args:
        batch_size: rendered images at a time.
        show: those of `indices` whose pictures are kept.
        tick: called with the number of images done.
        ruler: [b c *spatial] to logits [b 1 *spatial], above 0 where it sees a lesion; None = as `lesions` measures.
    """
    levels = usual_levels(explainer).to(device)
    at_once = max(1, batch_size // len(levels))
    images: list[SweptImage] = []
    for start in range(0, len(indices), at_once):
        chosen = list(indices[start : start + at_once])
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in dataset.batch(chosen).items()}
        rendered = explainer.sweep(batch["image"], levels)
        own, *lesion = [
            lesions(one, rendered[0], batch, dataset.channel) if ruler is None else segmented(ruler, one)
            for one in (batch["image"], *rendered)
        ]
        sizes = torch.stack([one.flatten(1).sum(1) for one in lesion]).cpu().numpy()
        before = 1 - probabilities(classifier, batch["image"])[:, NORMAL]
        after = torch.stack([1 - probabilities(classifier, one)[:, NORMAL] for one in rendered])
        for i, index in enumerate(chosen):
            drawn = [batch["image"][i], *rendered[:, i]] if index in show else []
            marked = [batch["mask"][i]] if "mask" in batch else []
            number = telling_slice(*(mask.cpu().numpy() for mask in (*marked, lesion[-1][i])))
            pictures = [_picture(one, number, dataset.channel) for one in drawn]
            images.append(
                SweptImage(
                    name=dataset.ids[index],
                    patient=dataset.groups[index],
                    size=int(own[i].sum()),
                    sizes=sizes[:, i],
                    before=float(before[i]),
                    after=after[:, i].cpu().numpy(),
                    picture=pictures[0] if pictures else None,
                    pictures=pictures[1:],
                )
            )
        tick(len(chosen))
    reference = RULER if ruler is not None else LESION_FREE if dataset.healthy is not None else LEVEL_0
    return Swept(levels.cpu().numpy(), reference, images)


def lesions(rendered: Image, at_level_0: Image, batch: Mapping[str, Any], channel: int | None = None) -> Mask:
    """Where rendered images show a lesion: a change above `VISIBLE`, inside the organ if the batch has its mask.

    Change from the true lesion-free image, "healthy", if the batch has it, brighter or darker, as a lesion may be both:
    beside bright tissue and beside fat. Else from the image at level 0: then it is that of everything that rises with
    the level, and a lesion that the explainer cannot remove is not counted.
    """
    change = (rendered - batch.get("healthy", at_level_0)).abs() / 2
    found = (change.mean(1) if channel is None else change[:, channel]) > VISIBLE
    return found & batch["organ"] if "organ" in batch else found


def rank_correlations(
    levels: Float[np.ndarray, " n"],
    sizes: Int[np.ndarray, "images n"],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Spearman's rho of level and size.

    `sweep_spearman` is over all pairs, so that images of different sizes at the same level lower it;
    `sweep_spearman_ci` its 95 % percentile interval over bootstrap samples of patients; None where no size differs.
    `sweep_spearman_per_image` is the mean of each image's own rho; an image whose size never changes counts as 0.
    """
    images, n = sizes.shape
    order = np.argsort(sizes, axis=None, kind="stable")
    ranked = Ranked.of(sizes.ravel()[order].astype(float), np.tile(levels, images)[order])
    image = np.repeat(np.arange(images), n)[order]

    def rho(times: Float[np.ndarray, "copies pairs"]) -> Float[np.ndarray, " copies"]:
        return ranked.correlations(np.broadcast_to(ranked.level, times.shape), times)[:, 0]

    pooled = with_intervals({"sweep_spearman": rho}, np.asarray(patients)[image], draws=resamples, seed=seed)
    own = rho((image == np.arange(images)[:, None]).astype(float))
    return {**pooled, "sweep_spearman_per_image": float(np.nan_to_num(own).mean())}


def write_sweep(directory: Path, swept: Swept) -> None:
    """`sizes.csv` of all images; of those shown, `overview.png`, and a PNG and a GIF each."""
    rows = [
        {
            "image": image.name,
            "patient": image.patient,
            "level": level,
            "pixels": size,
            "p_abnormal": p,
            "measured": swept.measure,
        }
        for image in swept.images
        for level, size, p in zip(swept.levels, image.sizes, image.after, strict=True)
    ]
    directory.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(directory / "sizes.csv", index=False, float_format="%.6g")
    names = [f"level {level:.3g}" for level in swept.levels]
    caption = f"under each: the classifier's p(abnormal), and pixels of lesion, {swept.measure}"
    strips, below, titles = [], [], []
    for image in swept.images:
        if image.picture is None:
            continue
        strips.append({"x": image.picture, **dict(zip(names, image.pictures, strict=True))})
        after = [f"p {p:.2f}" for p in image.after]
        sized = [f"{p}, {size} px" for p, size in zip(after, image.sizes, strict=True)]
        below.append({"x": f"p {image.before:.2f}, {image.size} px", **dict(zip(names, sized, strict=True))})
        titles.append(image.patient)
        file = directory / image.name.replace("/", "-")
        panel(Path(f"{file}.png"), strips[-1:], titles=titles[-1:], caption=caption, below=below[-1:])
        captions = [f"{name}, {p}" for name, p in zip(names, after, strict=True)]
        animation(Path(f"{file}.gif"), image.pictures, captions)
    if strips:
        panel(directory / "overview.png", strips, titles=titles, caption=caption, below=below)


def _picture(image: Float[Tensor, "c *spatial"], number: int | None, channel: int | None) -> Picture:
    own = image if channel is None else image[channel : channel + 1]
    return grey(own.cpu().numpy(), number)
