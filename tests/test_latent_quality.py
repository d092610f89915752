"""What the evaluation reports of a head on z."""

import torch

from cfxai.metrics.latent import LatentQuality
from cfxai.protocols import Counterfactual, Result


def result(label: list[int], target: int, grade: list[int], after: list[int], score: list[float]) -> Result:
    n = len(label)
    image, empty = torch.zeros(n, 1, 2, 2), torch.zeros(n, 2, 2)
    extras = {
        "score": torch.tensor(score), "grade": torch.tensor(grade), "reencoded_grade": torch.tensor(after),
        "move": torch.arange(n) + 1.0,
    }  # fmt: skip
    changed = Counterfactual(image, image, torch.full((n,), target), extras)
    groups = tuple(f"p{i}" for i in range(n))
    sure = torch.full((n, 2), 0.5)
    return Result(image, torch.tensor(label), empty, empty > 0, groups, sure, None, changed, sure)


def test_the_reencoded_flips_are_of_images_that_were_read_as_they_are_labelled() -> None:
    metric = LatentQuality(resamples=100)
    assert metric.compute() == {}
    metric.update(result([1, 1, 1, 0], 0, [1, 1, 0, 0], [0, 1, 0, 0], [2.0, 0.5, -0.5, -1.0]))
    found = metric.compute()
    assert found["reencoded_flip_rate"] == 0.5
    assert found["latent_move"] == 1.5
    assert found["head_auroc"] == 1.0
    assert found["head_accuracy"] == 0.75
    assert "grade_mae" not in found
