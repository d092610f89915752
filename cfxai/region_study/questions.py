"""What can be asked of a study, and how an answer looks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from cfxai.errors import DataError
from cfxai.regions.findings import Findings
from cfxai.regions.statistics.published import Published


@dataclass(frozen=True)
class Questions:
    """What to ask.

    Attributes:
        score: that groups are compared in. covariates: [n c] of each image. draws: permutations.
        published: also repeat published tests. findings: readers' findings, to be aligned with.
        references: maps that know less, by name.
    """

    score: str = "share"
    draws: int = 5000
    seed: int = 0
    covariates: Float[np.ndarray, "n c"] | None = None
    published: Published | None = None
    findings: Findings | None = None
    references: Mapping[str, "Reference"] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """Shares of a map that knows less than the methods', such as one of random weights.

    Attributes:
        methods: those it can be compared with. share: [n m r], of these.
    """

    methods: tuple[str, ...]
    share: Float[np.ndarray, "n m r"]


@dataclass(frozen=True)
class Section:
    """One question.

    Attributes:
        about: how it is answered, in words.
        results: dataclasses with a `sentence`.
        problem: why there is no answer.
    """

    title: str
    about: str
    results: tuple[Any, ...] = ()
    problem: str | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        return (self.problem,) if self.problem else tuple(result.sentence for result in self.results)


def answer(title: str, about: str, test: Callable[[], Iterable[Any]]) -> Section:
    """The results of `test`, or why it cannot be made."""
    try:
        return Section(title, about, tuple(test()))
    except DataError as error:
        return Section(title, about, problem=str(error))
