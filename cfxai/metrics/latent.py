"""Of counterfactuals that move in a latent space: what the head reads, before and after the image was rendered."""

from typing import Any

import numpy as np
import torch

from cfxai.latents.scores import finding_scores, grade_scores, with_intervals
from cfxai.protocols import Result


class LatentQuality:
    """Scores with 95 % intervals over patients (`…_ci`); None where a value is not defined, empty for other explainers.

    `head_auroc`, `head_accuracy`, `head_f1`: of the head's reading of a finding, against the labels.
    `reencoded_flip_rate`: of the images of another class than the target that the head reads so, the share that it
    reads as the target once they are rendered and encoded again: whether the image, and not the latent alone, has
    become what was asked for. `latent_move`: mean length of their way, in standard deviations of latents. Where the
    data have grades above 1, `grade_mae`, `grade_macro_f1`, `grade_qwk` and `grade_spearman` of the head's grades.

    Args:
        resamples: bootstrap samples of patients.
        seed: of the bootstrap.
    """

    def __init__(self, *, resamples: int = 2000, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self.rows: dict[str, list[np.ndarray]] = {}
        self.groups: list[str] = []

    def update(self, result: Result) -> None:
        changed = result.counterfactual
        if changed is None or "reencoded_grade" not in changed.extras:
            return
        values = {
            "label": result.label,
            "target": changed.target,
            "truth": torch.full_like(result.label, -1) if result.grade is None else result.grade,
            **changed.extras,
        }
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value.detach().cpu().double().numpy())
        self.groups += result.group

    def compute(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        rows, groups = {name: np.concatenate(parts) for name, parts in self.rows.items()}, np.array(self.groups)
        found: dict[str, Any] = {}
        if rows["score"].ndim == 1:
            scores = finding_scores(rows["score"], rows["grade"] > 0, rows["label"] > 0)
            found |= {f"head_{name}": value for name, value in self._summary(scores, groups).items()}
            if (rows["truth"] >= 0).all() and rows["truth"].max() > 1:
                grades = np.unique(np.concatenate([rows["truth"], rows["grade"]]))
                graded = grade_scores(
                    rows["score"], rows["grade"].astype(int), rows["truth"].astype(int), grades.astype(int)
                )
                found |= {f"grade_{name}": value for name, value in self._summary(graded, groups).items()}
        asked = ((rows["label"] > 0) != (rows["target"] > 0)) & ((rows["grade"] > 0) != (rows["target"] > 0))
        reached = rows["reencoded_grade"] == rows["target"]
        found["reencoded_flip_rate"] = float(reached[asked].mean()) if asked.any() else None
        found["latent_move"] = float(rows["move"][asked].mean()) if asked.any() else None
        return found

    def _summary(self, scores: Any, groups: np.ndarray) -> dict[str, Any]:
        return dict(with_intervals(scores, groups, draws=self.resamples, seed=self.seed))
