"""Asking a rendering again, against renderings whose answer to what is asked for is known."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cfxai.methods.correction import FURTHEST, corrected

CLOSE = 0.02


class Answers:
    """Reads own + gain (asked - own), bent by `bend` like sinh; an image is what is read in it, and all is recorded."""

    def __init__(self, own: Tensor, gain: Tensor, bend: float = 0.0) -> None:
        self.own, self.gain, self.bend = own, gain, bend
        self.asked: list[Tensor] = []
        self.which: list[Tensor] = []

    def __call__(self, scores: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(scores)
        self.which.append(which)
        way = self.gain[which] * (scores - self.own[which])
        read = self.own[which] + (torch.sinh(self.bend * way) / self.bend if self.bend else way)
        return read[:, None, None, None], read


def read(answers: Answers, wanted: Tensor, corrections: int) -> Tensor:
    return corrected(answers, answers.own, wanted, corrections=corrections, close=CLOSE)[:, 0, 0, 0]


def test_a_rendering_in_proportion_is_right_after_one_correction() -> None:
    own, wanted = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, -2.0, 0.0, 3.0])
    answers = Answers(own, torch.tensor([0.5, 2.0, 0.4, 1.5]))
    assert torch.allclose(read(answers, wanted, 1), wanted)
    assert torch.allclose(answers.asked[1], torch.tensor([2.0, -1.0, -1.5, 1.0 + 2 / 1.5]))


def test_what_is_right_is_not_rendered_again_and_nothing_is_without_corrections() -> None:
    own, wanted = torch.zeros(3), torch.tensor([1.0, 1.0, 0.01])
    answers = Answers(own, torch.tensor([1.0, 0.5, 0.1]))
    read(answers, wanted, 3)
    assert [which.tolist() for which in answers.which] == [[0, 1, 2], [1]]  # the last one's way is shorter than `CLOSE`
    answers = Answers(own, torch.tensor([1.0, 0.5, 0.1]))
    assert torch.allclose(read(answers, wanted, 0), torch.tensor([1.0, 0.5, 0.001]))
    assert len(answers.which) == 1


@given(
    gain=st.floats(0.4, 4.0),
    bend=st.just(0.0) | st.floats(1e-6, 1.5),  # of less than the smallest normal number, sinh would be a staircase
    own=st.floats(-2.0, 2.0),
    way=st.floats(0.1, 1.5),
    down=st.booleans(),
)
def test_any_rising_answer_is_met(gain: float, bend: float, own: float, way: float, down: bool) -> None:
    start = torch.tensor([own], dtype=torch.float64)
    wanted = start + (-way if down else way)
    answers = Answers(start, torch.tensor([gain], dtype=torch.float64), bend)
    assert abs(read(answers, wanted, 12) - wanted) <= CLOSE
    few, many = (abs(read(answers, wanted, count) - wanted) for count in (0, 3))
    assert many <= few


def test_an_image_that_never_answers_is_asked_for_so_much_and_keeps_its_best_rendering() -> None:
    answers = Answers(torch.zeros(1), torch.tensor([0.1]))
    assert torch.allclose(read(answers, torch.ones(1), 9), torch.tensor([0.1 * FURTHEST]))
    assert max(float(asked.max()) for asked in answers.asked) == FURTHEST
    assert len(answers.asked) == 2


def test_an_image_that_never_answers_is_left_alone_while_others_go_on() -> None:
    answers = Answers(torch.zeros(2, dtype=torch.float64), torch.tensor([0.1, 4.0], dtype=torch.float64), bend=1.5)
    read(answers, torch.tensor([1.0, 1.5], dtype=torch.float64), 9)
    assert len(answers.asked) > 3
    assert all(asked.isfinite().all() for asked in answers.asked)
    assert all(which.tolist() == [1] for which in answers.which[2:])
