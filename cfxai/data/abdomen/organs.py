"""A whole abdomen in a contrast-enhanced scan, painted so that what lies in front comes last; values in HU."""

from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from jaxtyping import Float

from cfxai.data.abdomen.kidneys import Kidney, draw_kidney, draw_perirenal_fat, place_kidney
from cfxai.data.abdomen.trunk import SPINE, Body, draw_body, draw_muscles, draw_ribs, draw_spine, draw_table
from cfxai.data.ct.canvas import Canvas
from cfxai.data.ct.shapes import Above, Capsule, Ellipsoid, Grown, Inside, Number, Outside, Rough, Shape, Waves

GAS = -850.0


def draw_abdomen(canvas: Canvas, rng: np.random.Generator) -> tuple[Kidney, Kidney]:
    """Paint a random patient; returns the right and the left kidney."""
    draw_table(canvas)
    body = draw_body(canvas, rng)
    draw_bowel(canvas, body, rng)
    draw_liver_and_spleen(canvas, body, rng)
    draw_stomach_and_pancreas(canvas, body, rng)
    right, left = (place_kidney(side, rng) for side in (1, -1))
    for kidney in (right, left):
        draw_perirenal_fat(canvas, body, kidney, rng)
    draw_muscles(canvas, rng)
    draw_ribs(canvas, body, rng)
    draw_spine(canvas, rng)
    draw_great_vessels(canvas, body, rng)
    for kidney in (right, left):
        draw_kidney(canvas, body, kidney, rng)
    return right, left


def draw_liver_and_spleen(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Liver with its veins and the gall bladder on the right, spleen on the left."""
    a, front = body.trunk.half_width, body.trunk.centre[1]
    low = rng.uniform(-15, 15)
    right = Ellipsoid((0.52 * a, front + 2, 62 + low), (0.5 * a, 88, 92))
    left = Ellipsoid((0.08 * a, front + 48, 72 + low), (0.55 * a, 36, 58))
    liver = body.enhanced(92, 112) + rng.uniform(-8, 8)
    for lobe in (right, left):
        canvas.paint(Inside(Rough(lobe, Waves(rng, 70), 3), Grown(body.cavity, -1.5)), liver)
    for _ in range(16):
        start = np.array([0.35 * a, front + 5, 45 + low]) + rng.uniform(-14, 14, 3)
        end = start + rng.uniform((0, -55, -30), (60, 45, 35))
        vein = Capsule(tuple(start.tolist()), tuple(end.tolist()), rng.uniform(2.0, 4.5))
        canvas.paint(Inside(vein, Grown(right, -6)), liver + body.enhanced(18, 50))
    gall_bladder = Ellipsoid((0.34 * a, front + 45, 5 + low), (14, 20, 22))
    canvas.paint(Grown(gall_bladder, 2), liver - 20)
    canvas.paint(gall_bladder, 8)
    spleen = Ellipsoid((-0.66 * a, SPINE + 14, 62 + rng.uniform(-12, 12)), (rng.uniform(26, 34), 46, 58))
    notch = Ellipsoid((-0.42 * a, SPINE + 30, 60), (26, 40, 90))
    shape = Outside(Rough(spleen, Waves(rng, 60), 2), notch)
    canvas.paint(Inside(shape, Grown(body.cavity, -1.5)), body.enhanced(135, 118) + rng.uniform(-6, 6))


def draw_stomach_and_pancreas(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Stomach with a gas-fluid level, pancreas across the midline."""
    a, front = body.trunk.half_width, body.trunk.centre[1]
    stomach = Ellipsoid((-0.33 * a, front + 38, 62), (rng.uniform(38, 50), rng.uniform(26, 34), 48))
    _draw_hollow(canvas, body, stomach, 4.5, 25, front + rng.uniform(40, 56), rng)
    height = rng.uniform(0, 25)
    points = [(32, 16, -12), (12, 18, 2), (-12, 24, 10), (-38, 20, 18), (-64, 6, 28)]
    for (x, y, z), (u, v, w) in pairwise(points):
        gland = Capsule((x, SPINE + 30 + y, z + height), (u, SPINE + 30 + v, w + height), rng.uniform(7.5, 10.5))
        canvas.paint(Rough(gland, Waves(rng, 16), 1.5), body.enhanced(105, 90))


def draw_bowel(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Mesenteric vessels, loops of small bowel and a colon with gas, fluid, contrast agent or stool."""
    a, front = body.trunk.half_width - body.fat, body.trunk.centre[1]
    for _ in range(70):
        start = rng.uniform((-0.6 * a, SPINE + 30, -70), (0.6 * a, front + 60, 50))
        end = start + rng.normal(0, 14, 3)
        vessel = Capsule(tuple(start.tolist()), tuple(end.tolist()), rng.uniform(1.2, 2.6))
        canvas.paint(vessel, body.enhanced(70, 130))
    for _ in range(52):
        x, y, z = rng.uniform((-0.68 * a, SPINE + 45, -85), (0.68 * a, front + 62, 45)).tolist()
        radius = rng.uniform(9, 15)
        loop = Ellipsoid((x, y, z), (radius * rng.uniform(1, 2.0), radius, radius * rng.uniform(1, 2.0)), _turn(rng))
        gas = y + rng.uniform(0, 0.6) * radius if rng.random() < 0.25 else np.inf
        content = rng.choice([18, 45, 70, 240], p=[0.25, 0.35, 0.3, 0.1])
        _draw_hollow(canvas, body, Rough(loop, Waves(rng, 35), 1.2), 2.5, float(content), gas, rng)
    for x, y in ((0.66 * a, SPINE + 42), (-0.72 * a, SPINE + 26)):
        radius = rng.uniform(13, 19)
        colon = Rough(Capsule((x, y, -120), (x, y + 10, 25), radius), Waves(rng, 30), 2)
        _draw_hollow(canvas, body, colon, 2.5, rng.uniform(-60, 40), y + rng.uniform(-4, 22), rng)
    y, radius = front + rng.uniform(48, 62), rng.uniform(11, 16)
    course = Capsule((-0.5 * a, y, rng.uniform(-5, 25)), (0.5 * a, y, rng.uniform(-25, 5)), radius)
    colon = Rough(course, Waves(rng, 35), 3)
    _draw_hollow(canvas, body, colon, 2.5, rng.uniform(-60, 40), y + rng.uniform(-2, 18), rng)


def _draw_hollow(
    canvas: Canvas, body: Body, shape: Shape, wall: Number, content: Number, gas: Number, rng: np.random.Generator
) -> None:
    """A hollow organ: its wall, its content (HU) and gas in front of the level `gas` (mm)."""
    outer = Inside(shape, Grown(body.cavity, -2))
    lumen, mottle = Grown(outer, -wall), Waves(rng, 9)
    canvas.paint(outer, body.enhanced(62, 80))
    canvas.paint(lumen, lambda points: content + 0.25 * (abs(content) + 20) * mottle(points))
    canvas.paint(Inside(lumen, Above(gas)), GAS)


def _turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A random rotation."""
    return np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)


def draw_great_vessels(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Aorta (at times calcified), inferior vena cava, superior mesenteric vessels, renal arteries and veins."""
    arterial, venous = body.enhanced(225, 150), body.enhanced(120, 145)
    aorta, cava = (-9 + rng.uniform(-3, 3), SPINE + 27), (19 + rng.uniform(-3, 3), SPINE + 25)
    radius = rng.uniform(8.5, 11)
    for side, level in ((1, rng.uniform(-6, 6)), (-1, rng.uniform(-2, 10))):
        canvas.paint(Capsule((*aorta, level), (side * 42, SPINE + 10, level - 6), 2.8), arterial)
        canvas.paint(Capsule((*cava, level - 4), (side * 42, SPINE + 14, level - 10), 4.2), venous)
    canvas.paint(Ellipsoid((*cava, 0), (rng.uniform(9, 13), rng.uniform(7, 10), 2000)), venous)
    canvas.paint(Capsule((*aorta, -300), (*aorta, 300), radius), arterial)
    canvas.paint(Capsule((aorta[0], aorta[1] + 18, -200), (aorta[0], aorta[1] + 15, 20), 3.5), arterial)
    canvas.paint(Capsule((aorta[0] + 16, aorta[1] + 20, -200), (aorta[0] + 16, aorta[1] + 18, 30), 5), venous)
    if rng.random() < 0.3:
        for _ in range(6):
            angle, level = rng.uniform(0, 2 * pi), rng.uniform(-60, 60)
            plaque = (aorta[0] + radius * cos(angle), aorta[1] + radius * sin(angle), level)
            canvas.paint(Ellipsoid(plaque, (2.5, 2.5, 6)), 600)
