"""The training loop: exact resumption, non-finite numbers, precision, what is left on disk."""

import csv
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import SGD
from toy import fabric, fit, toy_batch, toy_coin, weights

from cfxai.errors import NumericsError, Preempted
from cfxai.loop import keyed, train_step
from cfxai.run.checkpoint import capture, load_checkpoint
from cfxai.run.directory import Run

STEPS = 12


class Killed(Exception):
    """Stands for a power cut: nothing is saved on the way out."""


def killed_at(cut: int) -> Any:
    def batches(step: int) -> Mapping[str, Any]:
        if step == cut:
            raise Killed
        return toy_batch(step)

    return batches


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    fit(toy_coin(), directory)
    return directory


def assert_same_end(directory: Path, expected: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        found, state = load_checkpoint(directory / "checkpoints" / name)
        wanted, wanted_state = load_checkpoint(expected / "checkpoints" / name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
        assert state == wanted_state
    assert (directory / "metrics.csv").read_text() == (expected / "metrics.csv").read_text()


@pytest.mark.parametrize("cuts", [[1], [3], [4], [5], [6], [11], [2, 4, 4, 7, 8, 11]])
def test_killed_and_continued_equals_uninterrupted(tmp_path: Path, uninterrupted: Path, cuts: list[int]) -> None:
    """Weights, averages, Adam's moments, best checkpoint and metrics.csv, bit for bit."""
    for cut in cuts:
        torch.manual_seed(cut)  # what else used random numbers must not matter
        with pytest.raises(Killed):
            fit(toy_coin(), tmp_path, batches=killed_at(cut))
    fit(toy_coin(), tmp_path)
    assert_same_end(tmp_path, uninterrupted)


def test_stopped_by_a_signal_and_continued_equals_uninterrupted(tmp_path: Path, uninterrupted: Path) -> None:
    for cut in (1, 7, 10):
        run = Run(tmp_path)

        def batches(step: int, run: Run = run, cut: int = cut) -> Mapping[str, Any]:
            if step == cut:
                run._stop = "SIGTERM"
            return toy_batch(step)

        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            fit(toy_coin(), tmp_path, batches=batches, run=run)
        assert load_checkpoint(tmp_path / "checkpoints/last.ckpt")[1]["step"] == cut + 1
    fit(toy_coin(), tmp_path)
    assert_same_end(tmp_path, uninterrupted)


def test_every_step_has_one_row_and_validations_are_events(uninterrupted: Path) -> None:
    with open(uninterrupted / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    assert [row["val_score"] != "" for row in rows] == [step in (4, 9, 11) for step in range(STEPS)]
    assert all((row["kl"] != "") == (step % 2 == 0) for step, row in enumerate(rows)), "the generator's every 2nd step"
    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_score")] == [4, 9, 11]


def test_a_complete_training_is_left_alone(tmp_path: Path) -> None:
    fit(toy_coin(), tmp_path, steps=3)
    content = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    fit(toy_coin(), tmp_path, steps=3, batches=killed_at(0))
    assert (tmp_path / "checkpoints/last.ckpt").read_bytes() == content


def test_best_is_the_first_of_the_highest_scores(tmp_path: Path) -> None:
    scores = {2: 0.5, 4: 0.9, 6: math.nan, 8: 0.9}
    fit(toy_coin(), tmp_path, steps=8, validate_every=2, validate=lambda done: {"score": scores[done]})
    assert load_checkpoint(tmp_path / "checkpoints/best.ckpt")[1]["step"] == 4
    assert load_checkpoint(tmp_path / "checkpoints/last.ckpt")[1]["step"] == 8


def test_another_number_of_threads_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("cfxai"), "propagate", True)
    fit(toy_coin(), tmp_path, steps=3)
    assert "threads" not in caplog.text
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 6)
    fit(toy_coin(), tmp_path, steps=6)
    assert (
        f"was on {threads} threads and continues on {threads + 6}: its weights will not be bit-identical" in caplog.text
    )


class Line:
    """y = w x, with the loss terms that a test asks for."""

    def __init__(self, terms: Any) -> None:
        self.modules = nn.ModuleDict({"line": nn.Linear(1, 1, bias=False)})
        nn.init.ones_(self.modules["line"].weight)
        self.optimizers = {"line": SGD(self.modules.parameters(), 0.25)}
        self.terms = terms

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for terms in self.terms:
            yield "line", terms(self.modules["line"], batch["x"])


def step(method: Any, x: float = 1.0, precision: str = "32-true") -> dict[str, float]:
    with_fabric = fabric(precision)
    optimizers = {name: with_fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return train_step(method, optimizers, with_fabric, {"x": torch.tensor([[x]])}, 7, 0)


def test_a_term_that_is_not_finite_is_named_and_nothing_steps() -> None:
    line = Line([lambda f, x: {"fine": f(x).sum(), "broken": f(x).sum() * float("nan"), "huge": f(x).sum() / 0}])
    with pytest.raises(NumericsError, match="step 7: loss term broken, huge of the line is not finite") as caught:
        step(line)
    assert caught.value.exit_code == 4
    assert line.modules["line"].weight.item() == 1.0


def test_a_gradient_that_is_not_finite_is_named_and_nothing_steps() -> None:
    line = Line([lambda f, x: {"root": (f(x) - 1).abs().sqrt().sum()}])
    with pytest.raises(NumericsError, match=r"step 7: the gradient of line\.weight \(1 in all\) is not finite"):
        step(line)
    assert line.modules["line"].weight.item() == 1.0


def test_a_gradient_that_is_large_but_finite_is_not_an_error() -> None:
    line = Line([lambda f, x: {"steep": f(x).sum()}])
    assert step(line, x=1e30) == {"steep": pytest.approx(1e30)}
    assert line.modules["line"].weight.item() == pytest.approx(-0.25e30)


def test_nan_in_a_coin_training_stops_it_with_the_last_checkpoint_whole(tmp_path: Path) -> None:
    def batches(step: int) -> Mapping[str, Any]:
        batch = toy_batch(step)
        if step == 8:
            batch["image"][0, 0, 3, 3] = float("nan")
        return batch

    with pytest.raises(NumericsError, match="step 8: loss term kl, rec of the generator is not finite"):
        fit(toy_coin(), tmp_path, batches=batches)
    tensors, state = load_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert state["step"] == 6
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_phase_without_terms_does_not_step() -> None:
    line = Line([lambda f, x: {}, lambda f, x: {"loss": f(x).sum()}])
    assert step(line) == {"loss": 1.0}
    assert line.modules["line"].weight.item() == 0.75


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_each_phase_sees_the_weights_that_the_phase_before_left(precision: str) -> None:
    """One autocast around both would reuse the bf16 copy of the weight from before the first step."""
    line = Line([lambda f, x: {"first": f(x).sum()}, lambda f, x: {"second": f(x).sum()}])
    assert step(line, precision=precision) == {"first": 1.0, "second": 0.75}


def test_randomness_is_a_function_of_seed_and_step() -> None:
    class Noise(Line):
        def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
            yield "line", {"noise": self.modules["line"](batch["x"]).sum() * 0 + torch.rand(())}

    torch.manual_seed(1)
    first = step(Noise([]))
    torch.manual_seed(2)
    assert step(Noise([])) == first
    keys = {keyed(seed, at) for seed in range(20) for at in range(50)}
    assert len(keys) == 1000
    assert max(keys) < 2**63


def test_capture_is_a_copy() -> None:
    coin = toy_coin()
    before, kept = capture(coin)[0], weights(coin)
    with torch.no_grad():
        for parameter in coin.modules.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[f"module/{name}"], value) for name, value in kept.items())
