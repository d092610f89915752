"""The two kidneys, their fat and their inner structure."""

from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np
from jaxtyping import Float

from cfxai.data.abdomen.trunk import FAT, SPINE, Body
from cfxai.data.ct.canvas import Canvas
from cfxai.data.ct.shapes import Capsule, Ellipsoid, Field, Grown, Inside, Points, Rough, Shape, Vector, Waves


@dataclass(frozen=True)
class Kidney:
    """A kidney as a lesion sees it. `axes` rows: from the hilum outwards, across, along the organ."""

    solid: Ellipsoid
    sinus: Shape
    side: int

    def at(self, position: Float[np.ndarray, "3"]) -> Vector:
        """A point given in units of the kidney's radii, in mm."""
        x, y, z = self.solid.centre + (np.multiply(position, self.solid.radii) @ self.solid.axes)
        return float(x), float(y), float(z)


def place_kidney(side: int, rng: np.random.Generator) -> Kidney:
    """A kidney beside the spine, upper pole inwards and backwards; the right one (side 1) a little lower."""
    angle = radians(rng.uniform(15, 40))
    along = np.array([-side * rng.uniform(0.08, 0.18), -rng.uniform(0.03, 0.15), 1.0])
    along /= np.linalg.norm(along)
    outwards = np.array([side * cos(angle), -sin(angle), 0.0])
    outwards -= along * (outwards @ along)
    outwards /= np.linalg.norm(outwards)
    axes = np.stack([outwards, np.cross(along, outwards), along]).astype(np.float32)
    centre = (side * rng.uniform(54, 58), SPINE + rng.uniform(-6, 3), -6.0 * (side > 0) + rng.uniform(-3, 5))
    radii = (rng.uniform(23, 26), rng.uniform(23, 27), rng.uniform(46, 54))
    solid = Ellipsoid(centre, radii, axes)
    hilum = tuple((np.array(centre) - rng.uniform(0.45, 0.6) * radii[0] * outwards).tolist())
    sinus = Ellipsoid(hilum, (rng.uniform(11, 14), rng.uniform(7, 10), rng.uniform(19, 25)), axes)
    return Kidney(solid, Rough(sinus, Waves(rng, 22), 1.5), side)


def draw_perirenal_fat(canvas: Canvas, body: Body, kidney: Kidney, rng: np.random.Generator) -> None:
    """Fat around the kidney: thin in front, where organs touch it, deep behind and towards the spine."""
    x, y, z = kidney.solid.centre
    depth = rng.uniform(0, 10)
    behind = Ellipsoid((0.85 * x, y - 16, z - 4), (42 + depth, 30 + depth, 66))
    canvas.paint(Inside(Rough(behind, Waves(rng, 50), 3), body.cavity), FAT)
    canvas.paint(Rough(Grown(kidney.solid, rng.uniform(2, 6)), Waves(rng, 50), 1.5), FAT)


def draw_kidney(canvas: Canvas, body: Body, kidney: Kidney, rng: np.random.Generator) -> None:
    """Cortex, medullary pyramids, sinus fat with the renal pelvis, and at times a stone."""
    solid = Rough(kidney.solid, Waves(rng, 35), 0.8)
    cortex, medulla = body.enhanced(205, 182), body.enhanced(130, 152)
    canvas.paint(solid, cortex + rng.uniform(-6, 6))
    canvas.paint(Pyramids(kidney, rng.uniform(5.5, 7.5), rng.uniform(0, 2 * pi)), medulla + rng.uniform(-6, 6))
    canvas.paint(kidney.sinus, FAT + 20)
    inwards = -1 if kidney.side > 0 else 1
    x, y, z = kidney.at(np.array([-0.6, 0.0, 0.0]))
    pelvis = Ellipsoid((x, y, z), (9, 5, 10), kidney.solid.axes)
    canvas.paint(Rough(pelvis, Waves(rng, 18), 1.2), body.enhanced(8, 30))
    canvas.paint(Capsule((x, y + 4, z + 4), (x + inwards * 16, y + 10, z + 2), 3.5), body.enhanced(120, 145))
    if rng.random() < 0.15:
        canvas.paint(Ellipsoid(kidney.at(rng.uniform((-0.4, -0.2, -0.4), (-0.1, 0.2, 0.4))), (3, 3, 4)), 700)


@dataclass(frozen=True)
class Pyramids:
    """The medulla: what lies deeper than `cortex` mm, in cones around the sinus."""

    kidney: Kidney
    cortex: float
    phase: float

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.kidney.solid.bounds

    def distance(self, points: Points) -> Field:
        out, across, along = self.kidney.solid.local(points)
        angle = np.arctan2(across, out + 10)
        cones = np.cos(4 * angle + self.phase) + 0.7 * np.cos(along * (2 * pi / 21) + self.phase)
        return np.maximum(self.kidney.solid.distance(points) + self.cortex, -4 * (cones + 0.25))
