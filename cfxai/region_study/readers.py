"""Whether maps are where readers found something."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cfxai.region_study.questions import Questions, Section, answer
from cfxai.region_study.sample import Sample
from cfxai.regions.alignment import Alignment, Correlation, align
from cfxai.regions.findings import Findings
from cfxai.regions.ranking import rank_regions


def aligned_with_readers(sample: Sample, findings: Findings, ask: Questions) -> Iterator[Section]:
    """A section per method."""
    severity = findings.severity(sample.images["id"].tolist(), sample.all_regions)[:, sample.kept]
    strata = ["abnormal" if label else "normal" for label in sample.abnormal]
    for m, method in enumerate(sample.methods):
        values = sample.values[:, m].astype(float)

        def test(values: Float[np.ndarray, "n r"] = values) -> list[Any]:
            patients = sample.patients.tolist()
            found = align(values, severity, regions=sample.regions, strata=strata, patients=patients, seed=ask.seed)
            return [*map(Aligned, found), ranked(values, severity)]

        yield answer(
            f"Readers' findings, {method}",
            f"Rank correlation of the {ask.score} with the severity of the findings in each region, within class.",
            test,
        )


@dataclass(frozen=True)
class Aligned:
    """A region's `Alignment`, in words."""

    alignment: Alignment

    @property
    def sentence(self) -> str:
        found = self.alignment
        if found.spearman is None or found.kendall is None:
            return f"{found.region}: {found.problem}"
        spearman, kendall = _worded("Spearman ρ", found.spearman), _worded("Kendall τ", found.kendall)
        return f"{found.region}: {spearman}; {kendall}; {found.patients} patients."


@dataclass(frozen=True)
class Ranked:
    """Whether the affected regions of an image score highest; means over `images`."""

    auc: float
    ndcg: float
    images: int

    @property
    def sentence(self) -> str:
        if not self.images:
            return "No image has regions both with and without findings, so none can be ranked."
        return (
            f"An affected region scores higher than another one of the same image with probability {self.auc:.2f} "
            f"(0.5 by chance); nDCG {self.ndcg:.2f}; {self.images} images."
        )


def ranked(scores: Float[np.ndarray, "n r"], severity: Float[np.ndarray, "n r"]) -> Ranked:
    found = rank_regions(scores, severity)
    there = np.isfinite(found.auc)
    if not there.any():
        return Ranked(float("nan"), float("nan"), 0)
    return Ranked(float(found.auc[there].mean()), float(np.nanmean(found.ndcg)), int(there.sum()))


def _worded(name: str, found: Correlation) -> str:
    return f"{name} {found.value:.2f} (95 % CI {found.low:.2f} to {found.high:.2f}), permutation p = {found.p:.3f}"
