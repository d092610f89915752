"""The hila and the vessels that branch from them into the lungs, as mm of blood along the ray."""

from collections.abc import Iterator
from math import cos, pi, sin

import numpy as np

from cfxai.data.chest.film import Film, Map, Stroke, ellipse, ramp

HILA = {-1: -12.0, 1: -22.0}  # y of the right and of the left one, mm


def draw_vessels(film: Film, rng: np.random.Generator) -> Map:
    """Both hila, the left one higher, and their trees."""
    branches: list[Stroke] = []
    hila = np.zeros((film.size, film.size), np.float32)
    for side, height in HILA.items():
        root = (side * rng.uniform(32, 38), height + rng.uniform(-5, 5))
        blob = ellipse(film.points, root, (rng.uniform(9, 14), rng.uniform(16, 23)), side * 0.3)
        hila += rng.uniform(20, 32) * ramp(blob, 18)
        branches.extend(draw_tree(root, side, rng.uniform(5, 7.5), 9, rng))
    branches.sort(key=lambda branch: branch[1])
    return hila * (0.85 + 0.15 * film.texture(rng, 9)) + 15 * film.strokes(branches)


def draw_tree(
    root: tuple[float, float], side: int, width: float, stems: int, rng: np.random.Generator
) -> Iterator[Stroke]:
    """Tubes that fan out from a hilum into the lung of its side, thinner from fork to fork."""
    for angle in np.linspace(-0.42 * pi, 0.46 * pi, stems) + rng.normal(0, 0.1, stems):
        yield from _branches(root, angle, side, width, rng)


def _branches(
    start: tuple[float, float], angle: float, side: int, width: float, rng: np.random.Generator
) -> Iterator[Stroke]:
    bend = rng.normal(0, 0.12)
    while width > 1.2:
        length = 7 + 4 * width * rng.uniform(0.6, 1.1)
        angle += bend + rng.normal(0, 0.12)
        end = (start[0] + side * length * cos(angle), start[1] + length * sin(angle))
        yield np.array([start, end]), width, min(1.0, width / 6)
        if width > 2:
            yield from _branches(end, angle + rng.choice([-1, 1]) * rng.uniform(0.4, 0.8), side, 0.62 * width, rng)
        start, width = end, 0.82 * width
