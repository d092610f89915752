"""study(run): where in the anatomy do a run's maps lie, and does that differ between normal and abnormal patients?"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cfxai.attribution.targets import Contrast
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.loaded import LoadedRun, load_run
from cfxai.metrics.sanity import randomised
from cfxai.protocols import NORMAL, Attributor, Explainer, Image, Labels, Saliency, Target
from cfxai.region_study.analysis import analyse
from cfxai.region_study.covariates import covariates_of
from cfxai.region_study.measurement import Measured, measure
from cfxai.region_study.page import write_page
from cfxai.region_study.questions import Questions, Reference, Section
from cfxai.region_study.sample import usable_regions
from cfxai.regions.findings import Findings
from cfxai.regions.statistics.published import Published
from cfxai.run.checkpoint import write_atomically
from cfxai.run.directory import Run, locked, shown
from cfxai.run.locate import locate
from cfxai.run.progress import console
from cfxai.selection import shown_cases, spaced

log = logging.getLogger("cfxai")

PICTURE = "picture"
SHOWN = 24
"""Images on the page."""


@dataclass(frozen=True)
class Study:
    """What to study.

    Attributes:
        regions: a name from conf/regions. changes: of its settings, key -> value.
        attributors: whose maps, beside the run's own counterfactuals; None = those the run is judged with.
        split: test, val or train.
        score: that groups are compared in: share, enrichment, mean, positive or negative.
        contrast: the classes a and b of z_a - z_b, which every map is about.
        covariates: columns that differences are adjusted for. table: CSV with `id` that has them; None = the study's.
        published: also the published tests. findings, terms: files of readers' findings; see `regions.findings`.
        draws: permutations. max_images: at most so many; None = all. seed: of permutations and bootstrap.
    """

    regions: str
    changes: Mapping[str, Any]
    attributors: Sequence[str] | None = None
    split: str = "test"
    score: str = "share"
    contrast: tuple[int, int] = (1, NORMAL)
    covariates: Sequence[str] = ()
    table: Path | None = None
    published: Published | None = None
    findings: Path | None = None
    terms: Path | None = None
    draws: int = 5000
    max_images: int | None = None
    seed: int = 0


class Intensity:
    """A map that knows the picture only: how bright each pixel is, in [0, 1]."""

    def attribute(self, image: Image, target: Labels | Target) -> Saliency:
        return (image.mean(1) + 1) / 2


def study(path: Path, ask: Study) -> Path:
    """Measures, tests, and writes `<run>/regions/<name>/`: scores.csv, tests.json and index.html; returns that folder.

    Raises:
        ConfigError: not a run, or a setting that does not exist.
        DataError: regions that need what the data lack, or too few patients.
    """
    directory, _ = locate(path)
    with locked(directory):
        return _study(load_run(path), ask)


def _study(loaded: LoadedRun, ask: Study) -> Path:
    data, device, run, cfg = loaded.data, loaded.device, loaded.run, loaded.config
    dataset = data.split(ask.split)
    regions = loaded.regions(ask.regions, **ask.changes)
    wanted = cfg.evaluation.attributors if ask.attributors is None else ask.attributors
    explainers: dict[str, Explainer | Attributor] = {name: loaded.attributor(name) for name in wanted}
    if loaded.method is not None:
        explainers = {loaded.parts["method"].name: loaded.method, **explainers}
    if not explainers:
        raise ConfigError("-at: this run has no counterfactuals; name the attributors whose maps to study.")
    _check_contrast(ask.contrast, data.classes)
    findings = _findings(ask)
    indices = spaced(np.arange(len(dataset)), ask.max_images or len(dataset))
    target = Contrast(*ask.contrast)
    log.info("regions %s of %s: %d images", ", ".join(regions.names), ask.split, len(indices))
    image = dataset.batch(indices[:1])["image"].to(device)
    (_, _, unlearned) = next(iter(randomised(loaded.classifier, image, stages=1, seed=ask.seed)))
    random = {f"{name}, random weights": loaded.attributor(name, unlearned) for name in wanted}
    everything = measure(
        {**explainers, PICTURE: Intensity(), **random}, loaded.classifier, dataset, regions, target, device,
        indices=indices, batch_size=cfg.evaluation.batch_size, show=shown_cases(dataset, indices, SHOWN),
        tick=run.stop_if_requested,
    )  # fmt: skip
    refused = {name: why for name, why in everything.refused.items() if name in explainers}
    if not (made := [name for name in explainers if name not in refused]):
        raise UnsuitableError(" ".join(f"{name}: {why}" for name, why in refused.items()))
    measured = everything.only(made)
    questions = Questions(
        score=ask.score,
        draws=ask.draws,
        seed=ask.seed,
        covariates=covariates_of(measured.images, ask.covariates, ask.table),
        published=ask.published,
        findings=findings,
        references=_references(everything, made),
    )
    sample, notes = usable_regions(measured, ask.score)
    notes += [f"{name} is not shown: {why}" for name, why in refused.items()]
    return write(run, ask, data, measured, list(analyse(sample, questions)), notes)


def _references(everything: Measured, made: Sequence[str]) -> dict[str, Reference]:
    """The shares of the picture alone, and of the same methods on a network that has learnt nothing."""
    picture = everything.only([PICTURE]).scores["share"]
    found = {"the intensities alone": Reference(tuple(made), np.repeat(picture, len(made), 1))}
    random = {name: f"{name}, random weights" for name in made if f"{name}, random weights" in everything.methods}
    if random:
        share = everything.only(list(random.values())).scores["share"]
        found["random weights"] = Reference(tuple(random), share)
    return found


def write(
    run: Run, ask: Study, data: Data, measured: Measured, sections: Sequence[Section], notes: Sequence[str]
) -> Path:
    """Prints the first answers and writes the folder; an earlier one is kept beside it as `<name>-1`, `-2`, …"""
    folder = run.directory / "regions" / ask.regions
    if folder.exists():
        number = next(n for n in count(1) if not folder.with_name(f"{ask.regions}-{n}").exists())
        folder.rename(folder.with_name(f"{ask.regions}-{number}"))
    folder.mkdir(parents=True)
    a, b = ask.contrast
    facts = {
        "run": shown(run.directory),
        "regions": f"{ask.regions}: {', '.join(measured.regions)}",
        "images": f"{len(measured.images)} of {measured.images['patient'].nunique()} patients, split {ask.split}",
        "the maps are about": f"{data.classes[a]} rather than {data.classes[b]} (logit {a} minus logit {b})",
        "classifier": ", ".join(f"{v} {k}" for k, v in measured.images["outcome"].value_counts().items()),
    }
    write_atomically(folder / "scores.csv", measured.table().to_csv(index=False).encode())
    tests = {
        "facts": facts,
        "notes": notes,
        "sections": [
            {"title": s.title, "about": s.about, "problem": s.problem, "results": [_plain(r) for r in s.results]}
            for s in sections
        ],
    }
    write_atomically(folder / "tests.json", json.dumps(tests, indent=1, default=float).encode())
    title = f"Regions of {run.directory.name}"
    write_page(folder / "index.html", title, measured, sections, facts=facts, notes=notes, score=ask.score)
    for note in notes:
        log.warning(note)
    console.print(summary(sections[0]))
    for name in ("index.html", "scores.csv", "tests.json"):
        log.info("%-8s %s", name.split(".")[0], shown(folder / name))
    return folder


def summary(section: Section) -> Table | str:
    """The differences between the groups as a table, or why there are none."""
    if section.problem:
        return f"{section.title}: {section.problem}"
    table = Table(title=section.title, caption=section.about, title_justify="left", caption_justify="left")
    for column in ("map, region", "difference [95 % CI]", "permutation p", "max-T p"):
        table.add_column(column, justify="left" if column == "map, region" else "right", no_wrap=True)
    for result in section.results:
        interval = f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}]"
        table.add_row(result.name.rpartition(", ")[0], interval, f"{result.p:.4f}", f"{result.adjusted_p:.4f}")
    return table


def _plain(result: Any) -> dict[str, Any]:
    assert is_dataclass(result)
    assert not isinstance(result, type)
    return {**asdict(result), "sentence": result.sentence}  # type: ignore[attr-defined]


def _check_contrast(contrast: tuple[int, int], classes: Sequence[str]) -> None:
    named = ", ".join(f"{number} = {name}" for number, name in enumerate(classes))
    if len(set(contrast)) < 2 or not all(0 <= number < len(classes) for number in contrast):
        raise ConfigError(f"--contrast {contrast[0]} {contrast[1]}: needs two different classes; there are {named}.")


def _findings(ask: Study) -> Findings | None:
    if ask.findings is None and ask.terms is None:
        return None
    if ask.findings is None or ask.terms is None:
        raise ConfigError("--findings and --terms go together: what readers found, and where each term is.")
    return Findings(ask.findings, ask.terms)
