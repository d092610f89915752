"""study(run): where in the anatomy do a run's maps lie, and does that differ between normal and abnormal patients?"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cfxai.attribution.targets import Contrast
from cfxai.data.dataset import Data, Dataset
from cfxai.errors import ConfigError, UnsuitableError
from cfxai.loaded import LoadedRun, load_run
from cfxai.metrics.sanity import randomised
from cfxai.protocols import NORMAL, Attributor, Explainer, Image, Labels, Regions, Saliency, Target
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
    common: dict[str, Any] = {
        "indices": indices,
        "batch_size": cfg.evaluation.batch_size,
        "tick": run.stop_if_requested,
    }

    log.info("regions %s of %s: %d images", ", ".join(regions.names), ask.split, len(indices))
    shown_on_page = shown_cases(dataset, indices, SHOWN)
    measured = measure(explainers, loaded.classifier, dataset, regions, target, device, show=shown_on_page, **common)
    references = dict(_references(loaded, measured, wanted, partial(measure, **common), dataset, regions, target))
    questions = Questions(
        score=ask.score,
        draws=ask.draws,
        seed=ask.seed,
        covariates=covariates_of(measured.images, ask.covariates, ask.table),
        published=ask.published,
        findings=findings,
        references=references,
    )
    sample, notes = usable_regions(measured, ask.score)
    notes += [f"{name} is not shown: {why}" for name, why in measured.refused.items()]
    return write(run, ask, data, measured, list(analyse(sample, questions)), notes)


def _references(
    loaded: LoadedRun,
    measured: Measured,
    attributors: Sequence[str],
    measure: Callable[..., Measured],
    dataset: Dataset,
    regions: Regions,
    target: Target,
) -> Iterator[tuple[str, Reference]]:
    """The shares of the picture alone, and of the same methods on a network that has learnt nothing."""
    common = (loaded.classifier, dataset, regions, target, loaded.device)
    share = measure({"picture": Intensity()}, *common).scores["share"]
    yield "the intensities alone", Reference(measured.methods, np.repeat(share, len(measured.methods), 1))
    names = [name for name in attributors if name in measured.methods]
    if not names:
        return
    image = dataset.batch([0])["image"].to(loaded.device)
    (_, _, network) = next(iter(randomised(loaded.classifier, image, stages=1, seed=0)))
    try:
        found = measure({name: loaded.attributor(name, network) for name in names}, *common)
    except UnsuitableError:
        return
    yield "random weights", Reference(found.methods, found.scores["share"])


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
