"""Pneumonia: fluid in place of air, in a lobe, in patches or in a round focus."""

from dataclasses import dataclass

import numpy as np

from cfxai.data.chest.film import Film, Map, ellipse
from cfxai.data.chest.thorax import Build, Thorax
from cfxai.data.chest.vessels import HILA, draw_tree

KINDS = {"lobar": 0.35, "patchy": 0.4, "round": 0.25}
DENSITIES = {"faint": (0.16, 0.3), "moderate": (0.3, 0.55), "dense": (0.55, 0.9)}  # share of the air that is fluid
ZONES = ("upper", "middle", "lower")
RIM = 0.12  # what is fainter than this part of the opacity is left out, so that the mask holds what can be seen
APEX = -116.0  # y of the top of the lungs, mm


@dataclass(frozen=True)
class Opacity:
    """One opacity: where it is, how much of the air it takes, and `filled`, the part of the air along each ray that
    is fluid."""

    side: str
    zone: str
    kind: str
    density: float
    filled: Map


def draw_opacities(film: Film, build: Build, thorax: Thorax, rng: np.random.Generator) -> list[Opacity]:
    """One to three opacities in the visible lung."""
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    return [draw_opacity(film, build, thorax, rng) for _ in range(count)]


def draw_opacity(film: Film, build: Build, thorax: Thorax, rng: np.random.Generator) -> Opacity:
    """One opacity: soft-edged, mottled, dense ones with air-filled bronchi; a lobar one ends sharply at a fissure."""
    side, zone, centre = _place(film, build, thorax, rng)
    kind = str(rng.choice([*KINDS], p=[*KINDS.values()]))
    density = float(rng.uniform(*DENSITIES[str(rng.choice([*DENSITIES], p=[0.2, 0.45, 0.35]))]))
    roughness = film.texture(rng, 26) + 0.3 * film.texture(rng, 9)
    outline = {"lobar": _lobe, "patchy": _patches, "round": _focus}[kind](film, centre, zone, rng)
    profile = np.clip((outline + 4 * roughness) / rng.uniform(12, 22), 0, 1)
    mottled = np.clip(0.88 + 0.17 * film.texture(rng, 16) + 0.1 * film.texture(rng, 6), 0.4, 1.2)
    filled = density * profile * mottled
    if density > DENSITIES["dense"][0]:
        filled = filled * (1 - 0.6 * film.strokes(draw_tree((side * 30, HILA[side]), side, 4.0, 6, rng)))
    visible = (profile > RIM) & (thorax.lung > 0.3 * build.depth) & (side * film.points[0] > 0)
    return Opacity("right" if side < 0 else "left", zone, kind, density, np.where(visible, filled.clip(0, 0.95), 0))


def _place(film: Film, build: Build, thorax: Thorax, rng: np.random.Generator) -> tuple[int, str, tuple[float, float]]:
    """The side (-1 right), the zone (thirds of the lung's height) and a centre in well aerated lung."""
    x, y = film.points
    for _ in range(60):
        side = int(rng.choice([-1, 1]))
        part = rng.choice(3, p=[0.25, 0.3, 0.45])
        bottom = build.domes[side > 0] + 12
        height = APEX + (bottom - APEX) * (part + rng.uniform(0.1, 0.9)) / 3
        centre = (side * rng.uniform(0.2, 0.88) * build.half_width, float(height))
        nearest = np.unravel_index(np.argmin((x - centre[0]) ** 2 + (y - centre[1]) ** 2), x.shape)
        if thorax.lung[nearest] > 0.5 * build.depth:
            break
    return side, ZONES[part], centre


def _lobe(film: Film, centre: tuple[float, float], zone: str, rng: np.random.Generator) -> Map:
    """Distance inside a large patch that is cut off by a fissure: from below, in the lower zone from above."""
    x, y = film.points[0] - centre[0], film.points[1] - centre[1]
    patch = ellipse(film.points, centre, (rng.uniform(34, 56), rng.uniform(28, 46)), rng.uniform(-0.5, 0.5))
    fissure = rng.uniform(-0.15, 0.15) * x + rng.uniform(2, 10)
    inside = y + fissure if zone == "lower" else fissure - y
    return np.minimum(patch, 4 * inside)  # steeper than elsewhere: the edge at a fissure is sharp


def _patches(film: Film, centre: tuple[float, float], zone: str, rng: np.random.Generator) -> Map:
    patches = []
    for _ in range(int(rng.integers(3, 8))):
        place = (centre[0] + rng.normal(0, 15), centre[1] + rng.normal(0, 17))
        patches.append(ellipse(film.points, place, (rng.uniform(11, 22), rng.uniform(11, 22))))
    return np.maximum.reduce(patches)


def _focus(film: Film, centre: tuple[float, float], zone: str, rng: np.random.Generator) -> Map:
    radius = rng.uniform(15, 29)
    return ellipse(film.points, centre, (radius, radius * rng.uniform(0.85, 1.2)))
