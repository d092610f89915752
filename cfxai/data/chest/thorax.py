"""The lungs and what borders them: body, rib cage, mediastinum, heart, airways and diaphragm, as thicknesses in mm."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from cfxai.data.chest.film import Film, Line, Map, chord, closed, ellipse, ramp

RIGHT_LUNG, LEFT_LUNG, HEART, MEDIASTINUM, ABDOMEN, OUTSIDE = 1, 2, 3, 4, 5, 6
AERATED = 0.8  # the part of lung tissue that is air


@dataclass(frozen=True)
class Build:
    """What makes one patient's chest another than the next one's.

    Attributes:
        half_width: of the rib cage at its widest, mm.
        depth: of the lungs from back to front, mm.
        thickness: of the body from back to front, mm.
        fat: beside the ribs, mm.
        heart: its width as a part of the rib cage's, the cardiothoracic ratio.
        domes: height of the right and the left half of the diaphragm, mm; larger is lower.
        turn: how far what lies in front moves to the viewer's right, as the patient turns about the long axis, mm.
        arms: whether the arms hang clear of the flanks.
    """

    half_width: float
    depth: float
    thickness: float
    fat: float
    heart: float
    domes: tuple[float, float]
    turn: float
    arms: bool

    @property
    def side(self) -> Line:
        """The rib cage from the apex down along the patient's left, mm."""
        reach = np.array([0.32, 0.6, 0.79, 0.92, 0.98, 1.0, 1.0, 0.97]) * self.half_width
        return np.stack([reach, [-130, -115, -84, -38, 12, 60, 108, 132]], 1)


def draw_build(rng: np.random.Generator) -> Build:
    """A random patient."""
    right = rng.uniform(52, 84)
    return Build(
        half_width=rng.uniform(118, 138),
        depth=rng.uniform(125, 165),
        thickness=rng.uniform(195, 245),
        fat=rng.uniform(12, 32),
        heart=rng.uniform(0.4, 0.58),
        domes=(right, right + rng.uniform(2, 16)),
        turn=rng.normal(0, 4),
        arms=bool(rng.random() < 0.7),
    )


@dataclass(frozen=True)
class Thorax:
    """What a ray meets, in mm: `body` from skin to skin, of which `lung` is lung and `gas` is gas outside the lungs.

    `regions` is the label map: 1 right lung, 2 left lung, 3 heart, 4 mediastinum, 5 diaphragm and abdomen, 6 outside
    the body, 0 chest wall and shoulders.
    """

    body: Map
    lung: Map
    gas: Map
    regions: UInt8[np.ndarray, "h w"]


def draw_thorax(film: Film, build: Build, rng: np.random.Generator) -> Thorax:
    """The soft parts of a chest; bones and vessels come on top."""
    body = draw_body(film, build)
    cage = film.inside(closed(np.vstack([(build.side * (-1, 1))[::-1], (0, -104), build.side, (0, 140)])))
    middle = draw_mediastinum(film, build, rng)
    below = depth_below_diaphragm(film, build)
    recess = 0.16 * np.exp(-np.maximum(below, 0) / 26)  # the lung behind the domes
    x, y = film.points
    aorta = 0.12 * ramp(32 - x, 3) * ramp(x + 5, 30) * ramp(y + 66, 20)  # descending, behind the heart
    taken = np.maximum(0.76 * chord(middle, 16), aorta)
    depth = build.depth * chord(cage, 58) * np.clip(1.06 + y / 600, 0.7, 1.05)
    lung = depth * (1 - taken) * (1 - ramp(below, 5) * (1 - recess))
    gas = draw_airways(film, build) + draw_stomach_bubble(film, build, below, rng)
    regions = _regions(film, body, cage, middle, below)
    return Thorax(body, np.minimum(lung, 0.9 * body), np.minimum(gas, 0.5 * body), regions)


def draw_body(film: Film, build: Build) -> Map:
    """Neck, shoulders and trunk; beside arms that hang clear of the flanks the film shows air."""
    flank = build.half_width + build.fat + 6
    armpit = (flank + 10, -46) if build.arms else (flank + 42, 40)
    shoulder = [(56, -260), (54, -168), (76, -146), (140, -126), (250, -96), (250, 10)]
    half = np.array([*shoulder, armpit, (flank, 20), (flank + 4, 260)], float)
    inside = film.inside(np.vstack([half, half[::-1] * (-1, 1)]))
    thickness = build.thickness * np.interp(film.points[1], [-180, -125, -70, 180], [0.5, 0.58, 0.95, 1.02])
    return (thickness * chord(inside, 105)).astype(np.float32)


def draw_mediastinum(film: Film, build: Build, rng: np.random.Generator) -> Map:
    """How far each pixel lies inside the shadow of heart and great vessels, mm.

    Down the right: upper vena cava, right atrium; down the left: aortic knob, pulmonary trunk, left ventricle.
    """
    width = 2 * build.half_width * build.heart
    left = rng.uniform(0.6, 0.68) * width
    right = width - left
    knob, trunk, apex = rng.uniform(30, 40), rng.uniform(28, 37), rng.uniform(46, 60)
    vessels = [(25, -190), (23, -110), (24, -88), (knob, -68), (0.82 * knob, -50), (trunk, -32)]
    ventricle = [(0.63 * left, -8), (0.9 * left, 0.5 * apex), (left, apex), (0.93 * left, apex + 26)]
    base = [(0.6 * left, apex + 70), (-0.5 * right, apex + 70)]
    atrium = [(-0.85 * right, apex + 24), (-right, 0.55 * apex), (-0.82 * right, 4)]
    vena_cava = [(-26, -26), (-24, -60), (-26, -110), (-27, -190)]
    silhouette = np.array([*vessels, *ventricle, *base, *atrium, *vena_cava], float)
    silhouette[:, 0] += build.turn * np.clip(0.4 + silhouette[:, 1] / 200, 0, 1)
    return film.inside(closed(silhouette))


def depth_below_diaphragm(film: Film, build: Build) -> Map:
    """Signed distance below the two domes, each falling to its costophrenic and its cardiophrenic angle."""
    x, y = film.points
    domes = []
    for side, top in zip((-1, 1), build.domes, strict=True):
        along = (side * x - 0.48 * build.half_width) / build.half_width
        fall = np.where(along > 0, 205 * np.abs(along) ** 2.2, 110 * np.abs(along) ** 2)
        domes.append(y - top - fall)
    return np.where(x < 0, domes[0], domes[1]).astype(np.float32)


def draw_airways(film: Film, build: Build) -> Map:
    """The trachea and the two main bronchi."""
    bend = 0.4 * build.turn
    trachea = np.array([(0, -200), (bend, -110), (1 + bend, -52)], float)
    right = np.array([(1 + bend, -54), (-26, -22)], float)
    left = np.array([(1 + bend, -54), (33, -24)], float)
    air = film.strokes([(right, 11, 0.55), (left, 10, 0.5), (trachea, 17, 0.95)])
    return 21 * air


def draw_stomach_bubble(film: Film, build: Build, below: Map, rng: np.random.Generator) -> Map:
    """Gas under the left dome above a fluid level, and at times in the bowel below."""
    shown, wide, level = rng.random() < 0.5, rng.uniform(15, 32), rng.uniform(14, 34)
    centre = (rng.uniform(0.34, 0.62) * build.half_width, build.domes[1] + rng.uniform(16, 26))
    bowel, loops = rng.random() < 0.3, film.texture(rng, 26)
    bubble = chord(ellipse(film.points, centre, (wide, 22), rng.uniform(-0.3, 0.3)), 18) * ramp(below - 7, 6)
    bubble = rng.uniform(30, 65) * bubble * ramp(centre[1] + level - 14 - film.points[1], 3)
    haustra = 26 * np.clip(loops - 0.5, 0, 1) * ramp(below - 26, 10) * ramp(film.points[0] - 10, 20)
    return shown * bubble + bowel * haustra


def _regions(film: Film, body: Map, cage: Map, middle: Map, below: Map) -> UInt8[np.ndarray, "h w"]:
    """Later ones over earlier ones; lung and mediastinum begin 1.5 mm inside their outlines."""
    x, y = film.points
    regions = np.zeros(body.shape, np.uint8)
    regions[cage > 1.5] = np.where(x < 0, RIGHT_LUNG, LEFT_LUNG)[cage > 1.5]
    regions[middle > 1.5] = MEDIASTINUM
    regions[(middle > 1.5) & (y > -24 - 0.1 * x)] = HEART
    regions[(below > 0) & ((cage > 0) | (y > 110))] = ABDOMEN
    regions[body <= 0] = OUTSIDE
    return regions
