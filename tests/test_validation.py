"""A generator that has collapsed is noticed while it learns."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cfxai.protocols import Counterfactual, Result
from cfxai.validation import Validation, score, variety


def explained(image: torch.Tensor, counterfactual: torch.Tensor) -> Result:
    normal, flat = torch.zeros(1, dtype=torch.long), torch.zeros(1, *image.shape[1:])
    change = Counterfactual(image[None], counterfactual[None], normal)
    return Result(image[None], normal, flat, flat > 0, ("a",), torch.ones(1, 2) / 2, None, change)


def test_variety_is_that_of_the_images_unless_the_output_is_constant() -> None:
    images = torch.rand(6, 1, 8, 8)
    assert variety([explained(image, image) for image in images]) == pytest.approx(1)
    assert variety([explained(image, images[0]) for image in images]) == 0
    assert variety([explained(images[0], images[0])]) == 1, "one image says nothing"


@pytest.mark.parametrize(
    ("found", "done", "says"),
    [
        (
            {"l1": 1e-6, "flip_rate": 0.0, "variety": 1.0},
            10,
            "changes nothing (L1 1.0e-06); compare samples/ and consider a larger loss.kl",
        ),
        ({"l1": 0.1, "flip_rate": 0.0, "variety": 1.0}, 50, "no counterfactual flips the classifier"),
        ({"l1": 0.1, "flip_rate": 0.0, "variety": 1.0}, 10, None),
        ({"l1": 0.5, "flip_rate": 1.0, "variety": 0.01}, 10, "nearly the same image"),
        ({"l1": 0.1, "flip_rate": 0.9, "variety": 0.9}, 100, None),
        ({"z_followed": 0.004}, 30, "go only 0.4 % of the way there, encoded again: the network ignores z"),
        ({"z_followed": 0.004}, 10, None),
        ({"z_followed": 0.3}, 30, None),
    ],
)
def test_collapse_is_reported(
    found: dict[str, float],
    done: int,
    says: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("cfxai"), "propagate", True)
    cfg = SimpleNamespace(trainer=SimpleNamespace(steps=100))
    watch: Any = SimpleNamespace(cfg=cfg, method=SimpleNamespace(if_collapsed="a larger loss.kl"))
    Validation.warn_if_collapsed(watch, done, found)
    assert (says in caplog.text) if says else not caplog.text


def test_the_best_flips_and_segments() -> None:
    assert score({"flip_rate": 0.5, "iou": 0.4, "l1": 0.1}) == pytest.approx(0.2)
    assert score({"flip_rate": 0.5, "l1": 0.1}) == pytest.approx(0.45), "where there are no masks"
