"""What else is on a radiograph, with or without pneumonia: breasts, old granulomas, leads and lead letters."""

from dataclasses import dataclass

import numpy as np

from cfxai.data.chest.film import Film, Map, Pose, Stroke, chord, curve, ellipse, ramp
from cfxai.data.chest.thorax import Build

SHARES = {"breasts": 0.45, "granuloma": 0.2, "leads": 0.25, "marker": 0.8}
LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
    "R": [[(0, 1), (0, 0), (0.5, 0.05), (0.6, 0.27), (0.5, 0.5), (0, 0.52)], [(0.25, 0.52), (0.62, 1)]],
    "A": [[(0, 1), (0.35, 0), (0.7, 1)], [(0.15, 0.65), (0.55, 0.65)]],
    "P": [[(0, 1), (0, 0), (0.5, 0.05), (0.6, 0.27), (0.5, 0.5), (0, 0.52)]],
}
"""Strokes of each letter, one high."""


@dataclass(frozen=True)
class Distractors:
    """Their names, and what they add: soft tissue in mm, and attenuation of calcium and metal."""

    names: tuple[str, ...]
    tissue: Map
    metal: Map


def draw_distractors(film: Film, build: Build, rng: np.random.Generator) -> Distractors:
    """Each with its own probability (`SHARES`), whatever the label."""
    shown = {name: bool(rng.random() < share) for name, share in SHARES.items()}
    breasts, granulomas, leads, marker = (
        draw(film, build, stream)
        for draw, stream in zip((_breasts, _granulomas, _leads, _marker), rng.spawn(4), strict=True)
    )
    metal = shown["granuloma"] * granulomas + shown["leads"] * leads + shown["marker"] * marker
    return Distractors(tuple(name for name, there in shown.items() if there), shown["breasts"] * breasts, metal)


def _breasts(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """Two rounded shadows, dense towards their lower edge, fading towards the middle."""
    low, size, thick = rng.uniform(28, 62), rng.uniform(44, 60), rng.uniform(18, 40)
    shadow = np.zeros((film.size, film.size), np.float32)
    for side in (-1, 1):
        x, y = side * rng.uniform(0.62, 0.74) * build.half_width, low + rng.uniform(-5, 5) - 0.4 * size
        weight = np.clip(0.6 + (film.points[1] - y) / size, 0.1, 1) * np.clip(0.4 + side * film.points[0] / 80, 0, 1)
        shadow += weight * chord(ellipse(film.points, (x, y), (size, 0.85 * size)), size) ** 0.7
    return thick * shadow


def _granulomas(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """One to three calcified nodules of 3-7 mm."""
    calcium = np.zeros((film.size, film.size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        place = (rng.choice([-1, 1]) * rng.uniform(0.3, 0.8) * build.half_width, rng.uniform(-95, 45))
        radius = rng.uniform(1.6, 3.5)
        calcium += rng.uniform(0.4, 0.9) * ramp(ellipse(film.points, place, (radius, radius)), film.step)
    return calcium


def _leads(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """Two to four electrodes with their wires."""
    wires: list[Stroke] = []
    for _ in range(int(rng.integers(2, 5))):
        start = (rng.choice([-1, 1]) * rng.uniform(0.4, 1.0) * build.half_width, rng.uniform(-85, 70))
        bend = (start[0] * rng.uniform(0.6, 1.2) + rng.normal(0, 12), start[1] + rng.uniform(30, 60))
        end = (start[0] * 0.5 + rng.normal(0, 30), 230.0)
        wires.append((curve(np.array([start, bend, end])), 1.8, 0.6))
        wires.append((np.array([(start[0] - 3, start[1]), (start[0] + 3, start[1])]), 7, 1.0))
    return 1.6 * film.strokes(wires)


def _marker(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """A lead letter near an upper corner of the film: R or L on its side, at times AP."""
    side = int(rng.choice([-1, 1]))
    word = "AP" if rng.random() < 0.15 else "R" if side < 0 else "L"
    height = rng.uniform(13, 20)
    left, top = side * rng.uniform(138, 158) - 0.3 * height * len(word), rng.uniform(-165, -110)
    strokes = [
        (np.array([(left + (x + 0.95 * place) * height, top + y * height) for x, y in stroke]), 0.16 * height, 1.0)
        for place, letter in enumerate(word)
        for stroke in LETTERS[letter]
    ]
    return 4 * Film(film.size, Pose()).strokes(strokes)
