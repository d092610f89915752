"""What holds the organs, from the 12th thoracic to the 3rd lumbar vertebra: wall, muscles, ribs and spine; in HU."""

from dataclasses import dataclass
from itertools import pairwise
from math import cos, radians, sin

import numpy as np

from cfxai.data.ct.canvas import Canvas
from cfxai.data.ct.shapes import Capsule, Ellipsoid, Grown, Inside, Number, Outside, Rough, Shape, Trunk, Waves

SPINE = -24.0  # y of the vertebral bodies' centre, mm
FAT, MUSCLE = -105.0, 58.0  # HU


@dataclass(frozen=True)
class Body:
    """What the organs of one patient share: size, layers and how far the contrast agent has come.

    Attributes:
        trunk: the skin's surface.
        cavity: the inner surface of the abdominal wall.
        phase: 0 corticomedullary (bright arteries and cortex, dark medulla) to 1 nephrographic.
    """

    trunk: Trunk
    fat: float
    wall: float
    cavity: Shape
    phase: float

    def enhanced(self, early: Number, late: Number) -> float:
        """The value in HU of a tissue that has `early` in phase 0 and `late` in phase 1."""
        return early + self.phase * (late - early)


def draw_table(canvas: Canvas) -> None:
    """The curved table top under the patient's back."""
    front, radius = SPINE - 92, 330
    bow = Capsule((0, front + radius, -1000), (0, front + radius, 1000), radius)
    shell = Outside(Grown(bow, 5), bow)
    canvas.paint(Inside(shell, Ellipsoid((0, front, 0), (170, 80, 3000))), -60)


def draw_body(canvas: Canvas, rng: np.random.Generator) -> Body:
    """Skin, subcutaneous fat, muscular wall and the fat of the cavity."""
    fat, wall = rng.uniform(9, 28), rng.uniform(8, 13)
    half_width, half_depth = 134 + 1.2 * fat + rng.uniform(-6, 6), 93 + fat + rng.uniform(-6, 6)
    trunk = Trunk((rng.uniform(-2, 2), SPINE - 76 - 0.4 * fat + half_depth), half_width, half_depth)
    surface = Rough(trunk, Waves(rng, 160), 2)
    cavity = Rough(Grown(trunk, -fat - wall), Waves(rng, 120), 2)
    canvas.paint(surface, 10)
    canvas.paint(Grown(surface, -2), FAT)
    canvas.paint(Rough(Grown(trunk, -fat), Waves(rng, 80), 1.5), MUSCLE)
    canvas.paint(cavity, FAT + rng.uniform(-4, 8))
    return Body(trunk, fat, wall, cavity, rng.uniform(0, 1))


def draw_muscles(canvas: Canvas, rng: np.random.Generator) -> None:
    """Back muscles, quadratus lumborum, psoas (growing downwards) and the crura of the diaphragm."""
    bulk = rng.uniform(0.85, 1.1)
    for side in (-1, 1):
        back = Ellipsoid((side * 34, SPINE - 44, 0), (30 * bulk, 19 * bulk, 400))
        canvas.paint(Rough(back, Waves(rng, 40), 1.5), MUSCLE)
        canvas.paint(Ellipsoid((side * 66, SPINE - 36, -60), (20 * bulk, 8 * bulk, 70)), MUSCLE)
        canvas.paint(Ellipsoid((side * 31, SPINE - 5, -75), (16 * bulk, 17 * bulk, 85)), MUSCLE)
        canvas.paint(Capsule((side * 15, SPINE + 13, 80), (side * 17, SPINE + 12, 0), 5), MUSCLE)


def draw_ribs(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Ribs that run down and forwards inside the wall, so that a slice meets several of them."""
    inset = body.fat + 0.5 * body.wall
    a, b = body.trunk.half_width - inset, body.trunk.half_depth - inset
    for side in (-1, 1):
        for top in (25, 52, 79, 106, 133):
            angles = [radians(t) for t in range(-62, 45, 12)]
            track = [
                (
                    body.trunk.centre[0] + side * a * _root(cos(t), body.trunk.power),
                    body.trunk.centre[1] + b * _root(sin(t), body.trunk.power),
                    top + rng.uniform(-1, 1) - 38 * (t + 1.08),
                )
                for t in angles
            ]
            for start, end in pairwise(track):
                canvas.paint(Capsule(start, end, 4.5), 300)


def _root(value: float, power: float) -> float:
    """The parametrisation of a superellipse by an angle's cosine or sine."""
    return float(np.sign(value) * abs(value) ** (2 / power))


def draw_spine(canvas: Canvas, rng: np.random.Generator) -> None:
    """Vertebral bodies with a dense rim, discs between them, the canal and the processes."""
    width, height, first = rng.uniform(20, 24), rng.uniform(34, 38), rng.uniform(0, 36)
    spongy = rng.uniform(150, 210)
    column = Ellipsoid((0, SPINE, 0), (width, 0.8 * width, 2000))
    canvas.paint(column, 330)
    canvas.paint(Grown(column, -3), spongy)
    for level in np.arange(-180 + first, 180, height).tolist():
        canvas.paint(Inside(column, Ellipsoid((0, SPINE, level), (400, 400, 4))), 90)
        process = Capsule((0, SPINE - 34, level + 12), (0, SPINE - 58, level + 2), 3.5)
        canvas.paint(Grown(process, 1.5), 330)
        canvas.paint(process, spongy + 40)
        for side in (-1, 1):
            canvas.paint(Capsule((side * 14, SPINE - 24, level + 18), (side * 36, SPINE - 30, level + 16), 3.5), 260)
    arch = Ellipsoid((0, SPINE - 27, 0), (15, 12, 2000))
    canvas.paint(arch, 360)
    canvas.paint(Grown(arch, -4.5), 35)
