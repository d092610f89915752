"""The questions that a study of regions answers, each with its test; a test that cannot be made says why instead."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cfxai.region_study.questions import Questions, Reference, Section, answer
from cfxai.region_study.readers import aligned_with_readers
from cfxai.region_study.sample import Sample
from cfxai.regions.scores import SMALLEST
from cfxai.regions.statistics.agreement import agreement
from cfxai.regions.statistics.groups import compare_groups
from cfxai.regions.statistics.mixed import mixed_model
from cfxai.regions.statistics.moved import compare_translated
from cfxai.regions.statistics.own_controls import compare_own_controls
from cfxai.regions.statistics.published import Published, published_tests
from cfxai.regions.statistics.reference import compare_with_reference
from cfxai.regions.statistics.within import compare_regions


def analyse(sample: Sample, ask: Questions) -> Iterator[Section]:
    """The sections of the report, in order."""
    if not sample.regions:
        yield Section("Regions", "", problem="No region can be tested: all are missing or the same in most images.")
        return
    yield between_groups(sample, ask)
    methods = range(len(sample.methods))
    if ask.published:
        yield from (as_published(sample, m, ask.published) for m in methods)
    if len(sample.regions) > 1:
        yield from (between_regions(sample, m, ask) for m in methods)
    yield from (elsewhere(sample, m, ask) for m in methods)
    yield from (against(sample, name, reference, ask) for name, reference in ask.references.items())
    if len(sample.regions) > 1:
        yield from (mixed(sample, m, ask) for m in methods)
    if len(sample.regions) > 1 and len(methods) > 1:
        yield answer(
            "Agreement of methods",
            "Do the methods put the regions of a patient in the same order?",
            lambda: [agreement(sample.density, sample.patients, sample.methods, sample.regions, seed=ask.seed)],
        )
    if ask.findings is not None:
        yield from aligned_with_readers(sample, ask.findings, ask)


def between_groups(sample: Sample, ask: Questions) -> Section:
    """Between patients, or within those who have images of both kinds."""
    title = f"Abnormal and normal images: {ask.score} of the map in each region"
    family = "one max-T family over regions and methods"
    kinds = sample.images.assign(kind=sample.abnormal).groupby("patient")["kind"].nunique()
    if both := int((kinds > 1).sum()):

        def test() -> list[Any]:
            return compare_own_controls(
                sample.values, sample.abnormal, sample.patients, sample.regions,
                methods=sample.methods, draws=ask.draws, seed=ask.seed,
            )  # fmt: skip

        who = f"{both} of {len(kinds)} patients have images of both kinds: these are compared with themselves"
        return answer(title, f"{who}, by sign flips; {family}.", test)

    def test_patients() -> list[Any]:
        return compare_groups(
            sample.values, sample.abnormal, sample.patients, sample.regions,
            methods=sample.methods, covariates=ask.covariates, draws=ask.draws, seed=ask.seed,
        )  # fmt: skip

    plain = "Welch's t of patients under permutation of their labels"
    adjusted = "Difference of patients given the covariates, by Freedman and Lane"
    return answer(title, f"{plain if ask.covariates is None else adjusted}; {family}.", test_patients)


def as_published(sample: Sample, m: int, published: Published) -> Section:
    return answer(
        f"As published ({published}), {sample.methods[m]}",
        "Mean of |map| over the region; the test chosen by Shapiro and Levene, Bonferroni over regions. Images count "
        "as patients and magnitudes are compared: for repetition, not for conclusions.",
        lambda: published_tests(sample.published[:, m], sample.abnormal, sample.regions, published),
    )


def between_regions(sample: Sample, m: int, ask: Questions) -> Section:
    def test() -> list[Any]:
        density, patients = sample.density[sample.lesions, m], sample.patients[sample.lesions]
        found = compare_regions(density, patients, sample.regions, draws=ask.draws, seed=ask.seed)
        overall = [found.overall] if found.overall is not None else []
        return [*overall, *sorted(found.pairs, key=lambda pair: pair.adjusted_p)]

    return answer(
        f"Regions of abnormal images, {sample.methods[m]}",
        "Share divided by area, 1 = as much as a map without a preference; Friedman over all regions, sign flips of "
        "patients for each pair, Holm.",
        test,
    )


def elsewhere(sample: Sample, m: int, ask: Questions) -> Section:
    def test() -> list[Any]:
        lesions, cells = sample.lesions, sample.coarse
        return compare_translated(
            cells.maps[lesions, m], cells.regions[lesions], sample.patients[lesions], sample.regions,
            body=cells.body[lesions], draws=ask.draws, seed=ask.seed,
        )  # fmt: skip

    return answer(
        f"The same regions elsewhere, {sample.methods[m]}",
        "Mean of |map| in each region of abnormal images, and in the same shape at other places of the body: is it "
        "this anatomy, or any area of that size? Holm over regions.",
        test,
    )


def against(sample: Sample, name: str, reference: Reference, ask: Questions) -> Section:
    def test() -> list[Any]:
        lesions, chosen = sample.lesions, [sample.methods.index(method) for method in reference.methods]
        return compare_with_reference(
            sample.share[lesions][:, chosen], reference.share[lesions][..., sample.kept], sample.patients[lesions],
            sample.regions, methods=reference.methods, against=name, draws=ask.draws, seed=ask.seed,
        )  # fmt: skip

    return answer(
        f"Against {name}",
        f"Share of the map in each region minus that of {name}, abnormal images; sign flips of patients, one max-T "
        "family over regions and methods.",
        test,
    )


def mixed(sample: Sample, m: int, ask: Questions) -> Section:
    def test() -> list[Any]:
        share = np.clip(sample.share[:, m], SMALLEST, None)
        model = mixed_model(share, sample.abnormal, sample.patients, sample.regions, covariates=ask.covariates)
        return [model, *model.effects]

    return answer(
        f"Mixed model, {sample.methods[m]}",
        "Log share ~ region × group + (region | patient), as images of one patient are not independent. Shares below "
        f"{SMALLEST:g} count as that.",
        test,
    )
