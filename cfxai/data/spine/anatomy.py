"""A lumbar spine in CT: muscles, vessels, the canal, three vertebrae and their discs; values in HU, lengths in mm."""

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from jaxtyping import Float

from cfxai.data.ct.canvas import Canvas
from cfxai.data.ct.shapes import Capsule, Ellipsoid, Grown, Outside, Rough, Shape, Waves
from cfxai.data.spine.column import Body, Column
from cfxai.data.spine.deformity import NORMAL_LOSS, draw_deformity

LEVELS = (-1, 0, 1)
FRONT = 11.0  # y of the bodies' centre: what lies behind them needs more room
SHELL = 1.3  # thickness of compact bone
ENDLESS = 2000.0
FAT, MUSCLE, FLUID = -100.0, 55.0, 28.0


@dataclass(frozen=True)
class Spine:
    """The spine of one patient.

    Attributes:
        column: of bodies and discs.
        bodies: from the lowest to the highest.
        spongy: HU inside the bodies, which tells how dense the bone is.
        disc: HU of the discs.
        texture: the pattern of the spongy bone.
    """

    column: Column
    bodies: tuple[Body, ...]
    spongy: float
    disc: float
    texture: Waves

    @property
    def middle(self) -> Body:
        """The vertebra that the image is about."""
        return self.bodies[LEVELS.index(0)]

    @property
    def canal(self) -> Ellipsoid:
        """The spinal canal, whose front hollows the bodies' posterior wall."""
        return Ellipsoid((self.column.centre[0], self.column.back - 7.5, 0), (11, 9.5, ENDLESS))

    def bone(self, body: Body) -> Shape:
        """The solid of a vertebral body."""
        return Outside(body, self.canal)


def draw_pose(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation: inclined forwards or backwards, to a side, and turned, by a few degrees each."""
    x, y, z = np.radians(rng.uniform((-8, -4, -5), (8, 4, 5)))
    flex = np.array([[1, 0, 0], [0, cos(x), -sin(x)], [0, sin(x), cos(x)]])
    bend = np.array([[cos(y), 0, sin(y)], [0, 1, 0], [-sin(y), 0, cos(y)]])
    turn = np.array([[cos(z), -sin(z), 0], [sin(z), cos(z), 0], [0, 0, 1]])
    return flex @ bend @ turn


def draw_spine(rng: np.random.Generator) -> Spine:
    """Three random vertebrae, none of them fractured: they lack less than `NORMAL_LOSS` of their height."""
    size = rng.normal(1.0, 0.06)
    column = Column(
        centre=(rng.uniform(-2, 2), FRONT + rng.uniform(-2, 2), rng.uniform(-2, 2)),
        half_width=size * rng.uniform(22, 25),
        half_depth=size * rng.uniform(16, 18),
        height=size * rng.uniform(25, 29),
        gap=size * rng.uniform(6, 11),
        waist=rng.uniform(1.5, 3.0),
    )
    slope, hollow = rng.uniform(-0.06, 0.08), rng.uniform(1.0, 2.4)
    deformities = [draw_deformity(0.0, NORMAL_LOSS, rng) for _ in LEVELS]
    bodies = tuple(Body(column, level, hollow, slope, (d,)) for level, d in zip(LEVELS, deformities, strict=True))
    return Spine(column, bodies, rng.uniform(90, 240), rng.uniform(75, 110), Waves(rng, 9))


def draw_surroundings(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Everything but the middle vertebral body, what lies over something else last."""
    _draw_soft_tissue(canvas, spine.column, rng)
    canvas.paint(spine.canal, FAT + 30)
    x, y, _ = spine.canal.centre
    canvas.paint(Ellipsoid((x, y - 0.5, 0), (8.5, 7.2, ENDLESS)), FLUID)
    for body in spine.bodies:
        _draw_arch(canvas, spine, body, rng)
    canvas.paint(Outside(Grown(spine.column, 0.8), spine.canal), spine.disc)
    for body in spine.bodies:
        if body is not spine.middle:
            _draw_osteophyte(canvas, spine, body, rng)
            draw_body(canvas, spine, body)


def draw_body(canvas: Canvas, spine: Spine, body: Body) -> None:
    """A vertebral body: a shell of compact bone around spongy bone."""
    canvas.paint(spine.bone(body), 420 + 1.2 * spine.spongy)
    inside = Grown(spine.bone(body), -SHELL)
    canvas.paint(inside, lambda points: spine.spongy * (1 + 0.12 * spine.texture(points)))


def _draw_soft_tissue(canvas: Canvas, column: Column, rng: np.random.Generator) -> None:
    """Fat, the muscles beside and behind the spine, the aorta before it on the left and the vena cava on the right."""
    x, y, _ = column.centre
    front = y + column.half_depth
    canvas.hu[:] = FAT + 8 * Waves(rng, 25)(canvas.points)
    streaks, bulk = Waves(rng, 12), rng.uniform(0.85, 1.1)
    for side in (-1, 1):
        psoas = Ellipsoid((x + side * (column.half_width + 12), y - 6, 0), (15 * bulk, 19 * bulk, ENDLESS))
        back = Ellipsoid((x + side * 24, column.back - 34, 0), (23 * bulk, 18 * bulk, ENDLESS))
        for muscle in (psoas, back):
            canvas.paint(Rough(muscle, Waves(rng, 45), 1.5), lambda points: MUSCLE + 12 * streaks(points))
    blood = rng.uniform(40, 180)
    canvas.paint(Ellipsoid((x - 11, front + 11, 0), (10.5, 9.5, ENDLESS)), blood)
    canvas.paint(Ellipsoid((x + 14, front + 9, 0), (11.5, 9, ENDLESS)), 40 + 0.6 * (blood - 40))


def _draw_arch(canvas: Canvas, spine: Spine, body: Body, rng: np.random.Generator) -> None:
    """Pedicles, articular and transverse processes, laminae and the spinous process of one vertebra."""
    x, back, h = spine.column.centre[0], spine.column.back, spine.column.height
    tilt = rng.uniform(0.35, 0.6)

    def bar(start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Capsule:
        """A bar between two points: mm to the right, mm in front of the posterior wall, heights above mid-height."""
        points = [(x + right, back + forwards, body.z + h * up) for right, forwards, up in (start, end)]
        return Capsule(points[0], points[1], radius)

    towards_tip = np.array([[1, 0, 0], [0, cos(tilt), sin(tilt)], [0, -sin(tilt), cos(tilt)]], np.float32)
    spinous_process = Ellipsoid((x, back - 33, body.z - 0.42 * h), (3.2, 13.5, 7.5), towards_tip)
    parts: list[Shape] = [spinous_process, bar((0, -22, -0.2), (0, -26, -0.3), 3.3)]
    for side in (-1, 1):
        parts += [
            bar((side * 13, 3, 0.2), (side * 15, -10, 0.2), 4.2),
            bar((side * 15, -12, 0.45), (side * 14, -17, -0.5), 4.2),
            bar((side * 17, -9, 0.15), (side * 44, -15, 0.05), 2.8),
        ]
        parts += [bar((side * 13, -17, up), (0, -23, up - 0.17), 3.0) for up in (-0.05, -0.13, -0.21)]
    for part in parts:
        canvas.paint(part, 500 + spine.spongy)
    for part in parts:
        canvas.paint(Grown(part, -SHELL), 120 + spine.spongy)


def _draw_osteophyte(canvas: Canvas, spine: Spine, body: Body, rng: np.random.Generator) -> None:
    """At times, a spur on the edge that a neighbour turns towards the middle vertebra: not a fracture."""
    angle, present = radians(rng.uniform(30, 150)), rng.random() < 0.35
    if present:
        column = spine.column
        x, y = column.centre[0] + column.half_width * cos(angle), column.centre[1] + column.half_depth * sin(angle)
        edge = body.z - body.level * (column.height / 2 - 2)
        canvas.paint(Ellipsoid((x, y, edge), (5, 4, 3)), 450 + spine.spongy)
