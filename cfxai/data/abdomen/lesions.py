"""Tumours and cysts of the kidney.

Tumours are irregular and heterogeneous solids; cysts, the distractor with the normal label, are smooth and watery.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cfxai.data.abdomen.kidneys import Kidney
from cfxai.data.ct.canvas import Canvas
from cfxai.data.ct.shapes import Ellipsoid, Grown, Rough, Shape, Vector, Waves

FIELD = 90.0  # mm: lesions stay within this distance of the midline, as the kidneys do
CORTEX = 190.0  # HU: what a tumour's contrast is measured against
RADII = (10.0, 26.0)  # mm
GRADED_CONTRASTS = (70.0, 135.0)  # HU below the cortex, of the smallest and the largest graded tumour


@dataclass(frozen=True)
class Tumour:
    """A tumour: its kidney, its solid, its mean radius (mm), its value and that of its necrotic core (HU)."""

    kidney: Kidney
    solid: Shape
    radius: float
    hu: float
    core: Shape | None
    core_hu: float

    @property
    def grade(self) -> int:
        """Severity 1-4: one for being there, one each for 28 mm and 40 mm across and for 115 HU of contrast."""
        diameter, contrast = 2 * self.radius, abs(self.hu - CORTEX)
        return 1 + (diameter >= 28) + (diameter >= 40) + (contrast >= 115)


def place_cysts(kidneys: tuple[Kidney, Kidney], rng: np.random.Generator) -> list[Ellipsoid]:
    """One to three round cysts at the surface of either kidney."""
    cysts: list[Ellipsoid] = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))):
        radius = 4 + 10 * rng.beta(1.2, 2)
        radii = tuple((radius * rng.uniform(0.95, 1.05, 3)).tolist())
        _, centre = _site(kidneys, radius, cysts, (0.7, 1.05), rng)
        cysts.append(Ellipsoid(centre, radii))
    return cysts


def place_tumours(kidneys: tuple[Kidney, Kidney], cysts: list[Ellipsoid], rng: np.random.Generator) -> list[Tumour]:
    """One or two tumours, inside (endophytic) or bulging out of (exophytic) either kidney."""
    taken = list(cysts)
    return [
        _place_tumour(kidneys, taken, rng.uniform(*RADII), _enhancement, rng, exact=False)
        for _ in range(int(rng.choice([1, 2], p=[0.6, 0.4])))
    ]


def place_graded_tumour(
    kidneys: tuple[Kidney, Kidney], cysts: list[Ellipsoid], grades: int, rng: np.random.Generator
) -> tuple[Tumour, int]:
    """One tumour and its grade, 1 to `grades` - 1, each equally likely; its volume and contrast grow with it."""
    severity = rng.random()
    radius = RADII[0] + severity * (RADII[1] - RADII[0])
    hu = CORTEX - (GRADED_CONTRASTS[0] + severity * (GRADED_CONTRASTS[1] - GRADED_CONTRASTS[0]))
    tumour = _place_tumour(kidneys, list(cysts), radius, lambda _: hu, rng, exact=True)
    return tumour, 1 + int(severity * (grades - 1))


def _place_tumour(
    kidneys: tuple[Kidney, Kidney],
    taken: list[Ellipsoid],
    radius: float,
    enhancement: Callable[[np.random.Generator], float],
    rng: np.random.Generator,
    *,
    exact: bool,
) -> Tumour:
    """A tumour away from the lesions `taken`, which it joins; if `exact`, smooth and as large as a ball of `radius`."""
    depth = (0.4, 0.75) if rng.random() < 0.4 else (0.75, 1.1)
    radii = radius * rng.uniform((0.85, 0.85, 0.95), (1.1, 1.1, 1.25))
    if exact:
        radii *= radius / np.cbrt(radii.prod())
    kidney, centre = _site(kidneys, radius, taken, depth, rng)
    ellipsoid = Ellipsoid(centre, tuple(radii.tolist()))
    waves, roughness = Waves(rng, 1.6 * radius + 8), rng.uniform(0.08, 0.14) / (2 if exact else 1)
    solid = Rough(ellipsoid, waves, roughness * radius)
    core = Rough(Grown(ellipsoid, -rng.uniform(0.4, 0.6) * radius), Waves(rng, 1.2 * radius), 0.12 * radius)
    necrotic = radius > 14 and rng.random() < 0.4
    taken.append(ellipsoid)
    return Tumour(kidney, solid, radius, enhancement(rng), core if necrotic else None, rng.uniform(18, 45))


def paint_cyst(canvas: Canvas, cyst: Ellipsoid, rng: np.random.Generator) -> None:
    """A homogeneous cyst of 0-15 HU."""
    canvas.paint(cyst, rng.uniform(0, 15))


def paint_tumour(canvas: Canvas, tumour: Tumour, rng: np.random.Generator) -> None:
    """A heterogeneous tumour with its core, if it has one."""
    texture, contrast = Waves(rng, 0.7 * tumour.radius + 6), rng.uniform(5, 16)
    canvas.paint(tumour.solid, lambda points: tumour.hu + contrast * texture(points))
    if tumour.core is not None:
        canvas.paint(tumour.core, tumour.core_hu)


def _enhancement(rng: np.random.Generator) -> float:
    """Mostly darker than the cortex, at times hardly, at times brighter; HU."""
    kind = rng.choice(["dark", "faint", "bright"], p=[0.94, 0.03, 0.03])
    ranges = {"dark": (55, 100), "faint": (110, 130), "bright": (235, 255)}
    return rng.uniform(*ranges[str(kind)])


def _site(
    kidneys: tuple[Kidney, Kidney],
    radius: float,
    taken: list[Ellipsoid],
    depth: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Kidney, Vector]:
    """A kidney and a lesion's centre in it.

    The centre lies away from the hilum, from the lesions already there and from the edge of the field. `depth` is its
    range from the kidney's centre (0) to its surface (1). After 60 tries lesions may touch.
    """
    for _ in range(60):
        kidney = kidneys[int(rng.integers(2))]
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        x, y, z = kidney.at(direction * rng.uniform(*depth))
        clear = all(np.linalg.norm(np.subtract((x, y, z), t.centre)) > radius + max(t.radii) + 2 for t in taken)
        if clear and abs(x) + radius < FIELD and direction[0] > -0.25 and abs(direction[2]) < 0.85:
            break
    return kidney, (x, y, z)
