"""Ribs, clavicles, shoulder blades and spine, as mm of bone along the ray."""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

from cfxai.data.chest.film import Film, Line, Map, Stroke, curve
from cfxai.data.chest.thorax import Build

SOFTNESS = 1.3  # mm
QUARTER = np.linspace(0, np.pi / 2, 14)


def draw_bones(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """The whole skeleton of the chest, its edges as soft as round bones make them."""
    bones = draw_ribs(film, build, rng) + draw_spine(film, build, rng) + draw_shoulders(film, build, rng)
    return gaussian_filter(bones, SOFTNESS / film.step)


def draw_ribs(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """Ten pairs, dense shells around spongy cores; in front the upper seven fade into cartilage."""
    density, width = rng.uniform(0.75, 1.25), rng.uniform(8.5, 10.5)
    posterior: list[Line] = []
    anterior: list[tuple[Line, float]] = []
    spacing, first = rng.uniform(22, 24.5), rng.uniform(-118, -110)
    for number in range(10):
        top = first + spacing * number + rng.normal(0, 0.7)
        for side in (-1, 1):
            back, front = _rib(build, side, number, top, rng.normal(0, 1.2))
            posterior.append(back)
            if number < 7:
                anterior.extend(_fading(front))
    back = film.strokes((line, width, 1) for line in posterior)
    back_core = film.strokes((line, width - 3.2, 1) for line in posterior)
    front = film.strokes((line, width + 1.5, strength) for line, strength in anterior)
    front_core = film.strokes((line, width - 2, strength) for line, strength in anterior)
    return density * (15 * back - 6 * back_core + 12.0 * front - 6 * front_core)


def _rib(build: Build, side: int, number: int, top: float, tilt: float) -> tuple[Line, Line]:
    """The arc behind, from the spine outwards, and the arc in front, from the flank inwards."""
    drop = 14 + 2.6 * number + tilt
    flank = top + drop
    reach = float(np.interp(flank, build.side[:, 1], build.side[:, 0])) - 2
    x = 14 + (reach - 14) * np.sin(QUARTER)
    y = top - 7 * np.sin(2 * QUARTER) * min(1, 0.5 + number / 8) + drop * (1 - np.cos(QUARTER)) ** 1.1
    back = np.stack([side * x, y], 1)
    inner, fall = min(0.62 * reach, 30 + 6 * number), 26 + 5.5 * number
    x = reach - (reach - inner) * (1 - np.cos(QUARTER))
    return back, np.stack([side * x + 0.6 * build.turn, flank + fall * np.sin(QUARTER)], 1)


def _fading(line: Line) -> Iterator[tuple[Line, float]]:
    for start in range(len(line) - 1):
        yield line[start : start + 2], float(np.clip(1.5 - 1.5 * start / len(line), 0, 1))


def draw_spine(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """Vertebral bodies between discs, with their pedicles and spinous processes."""
    height, first, half = rng.uniform(23, 26), rng.uniform(-200, -180), rng.uniform(15, 18)
    bodies: list[Stroke] = []
    discs: list[Stroke] = []
    details: list[Stroke] = []
    for level in np.arange(first, 200, height):
        bodies.append((np.array([(0, level + 1.5), (0, level + height - 1.5)]), 2 * half, 0.75))
        discs.append((np.array([(-half, level + 2), (half, level + 2)]), 2.0, 1.0))
        details.extend((np.array([(s * 9, level + 7), (s * 9, level + 12)]), 5, 1.0) for s in (-1, 1))
        details.append((np.array([(-0.3 * build.turn, level + 12), (-0.3 * build.turn, level + 22)]), 4, 1.0))
        details.extend((np.array([(s * half, level + 8), (s * (half + 12), level + 4)]), 6, 0.7) for s in (-1, 1))
    return 9 * film.strokes(bodies) + 5 * film.strokes(discs) + 8 * film.strokes(details)


def draw_shoulders(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """Clavicles, the inner edges of the shoulder blades, and the heads of the upper arms."""
    lift, blade, strength = rng.uniform(-10, 8), rng.uniform(0.84, 1.04), rng.uniform(0.5, 1)
    clavicles: list[Stroke] = []
    cores: list[Stroke] = []
    blades: list[tuple[Line, Line]] = []
    for side in (-1, 1):
        start, end = side * 14 + 1.4 * build.turn, side * 152
        corners = [(start, -96), (side * 48, -103 + 0.3 * lift), (side * 100, -118 + lift), (end, -114 + 1.2 * lift)]
        line = curve(np.array(corners, float))
        clavicles.extend([(line, 11, 1.0), (line[:4], 15, 1.0)])
        cores.append((line, 6.5, 1.0))
        inner = blade * build.half_width
        corners = [(side * (inner + 4), -84), (side * inner, -50), (side * (inner + 7), -8), (side * (inner + 20), 24)]
        edge = curve(np.array(corners, float))
        blades.append((np.concatenate([edge, [(side * 165, -40), (side * 165, -108)]]), edge))
    bones = 30 * film.strokes(clavicles) - 12 * film.strokes(cores)
    for area, edge in blades:
        bones += strength * (5 * film.fill(area) + 8 * film.strokes([(edge, 3, 1.0)]))
    heads = film.strokes((np.array([(s * 166, -108), (s * 166.5, -104)]), 40, 1.0) for s in (-1, 1))
    return bones + 20 * heads
