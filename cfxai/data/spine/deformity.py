"""Vertebral deformities: how much of its height a vertebral body has lost, and where."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

GRADE_LOSSES = (0.20, 0.25, 0.40)
"""Least loss of height of Genant's grades 1 (mild), 2 (moderate) and 3 (severe); Genant 1993, J Bone Miner Res 8."""
LARGEST_LOSS = 0.60
NORMAL_LOSS = 0.12
"""What vertebrae without a fracture may lack."""
KINDS = {"wedge": 0.5, "biconcave": 0.25, "crush": 0.25}
"""How often each shape occurs."""
LINES = (0.85, 0.0, -0.85)
"""Where the anterior, middle and posterior heights are measured, in half depths from the body's centre."""

Plane = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Deformity:
    """A loss of height.

    Attributes:
        kind: wedge (most at the front), biconcave (most in the middle) or crush (nearly alike everywhere).
        loss: the largest part of the height that is lost.
        upper: the part of it that is lost at the upper endplate; the rest is at the lower one.
    """

    kind: str
    loss: float
    upper: float

    def at(self, u: Plane, v: Plane) -> Plane:
        """The part of the height lost `u` half widths to the right and `v` half depths in front of the centre."""
        forwards = np.clip((v / LINES[0] + 1) / 2, 0, 1)
        share = {
            "wedge": lambda: forwards,
            "biconcave": lambda: np.cos(np.pi / 2 * np.minimum(np.hypot(0.8 * u, v), 1)) ** 2,
            "crush": lambda: 0.85 + 0.15 * forwards,
        }[self.kind]()
        return self.loss * share


def genant_grade(loss: float) -> int:
    """0 (below 20 %), 1, 2 or 3 (from 40 %) by the part of its height that a vertebral body has lost."""
    return int(np.digitize(loss, GRADE_LOSSES))


def draw_deformity(least: float, most: float, rng: np.random.Generator) -> Deformity:
    """A deformity of a random kind with a loss between the two; most wedges are at the upper endplate alone."""
    kind = str(rng.choice([*KINDS], p=[*KINDS.values()]))
    upper = 1.0 if rng.random() < 0.7 and kind == "wedge" else rng.uniform(0.4, 0.6)
    return Deformity(kind, rng.uniform(least, most), upper)


def draw_fracture(rng: np.random.Generator) -> Deformity:
    """A deformity of Genant's grade 1, 2 or 3, each equally likely."""
    bounds, grade = (*GRADE_LOSSES, LARGEST_LOSS), int(rng.integers(1, 4))
    return draw_deformity(bounds[grade - 1], bounds[grade], rng)
