"""The film that a chest is projected onto, and how outlines and lines get there; lengths in mm."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, sin

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from scipy.interpolate import splev, splprep
from scipy.ndimage import distance_transform_edt

FIELD = 360.0  # mm: side of the film
DRAWN = 512  # least pixels of a side while drawing, so that edges come out smooth
MEASURED = 256  # pixels of a side on which distances are taken

Map = Float[np.ndarray, "h w"]
Line = Float[np.ndarray, "_ 2"]
Stroke = tuple[Line, float, float]  # a line, its width in mm and its strength in [0, 1]


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the film: shifted (mm), inclined (radians), larger or smaller."""

    shift: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Film:
    """`size` x `size` pixels. Positions are the patient's: x to the patient's left (the viewer's right), y to the feet,
    the origin between the hila."""

    size: int
    pose: Pose

    @property
    def step(self) -> float:
        """Side of a pixel."""
        return FIELD / self.size

    @cached_property
    def points(self) -> tuple[Map, Map]:
        """x and y of every pixel's centre."""
        across = ((np.arange(self.size) + 0.5) * self.step - FIELD / 2).astype(np.float32)
        u = (across[None, :] - self.pose.shift[0]) / self.pose.scale
        v = (across[:, None] - self.pose.shift[1]) / self.pose.scale
        c, s = cos(self.pose.angle), sin(self.pose.angle)
        return c * u + s * v, c * v - s * u

    def fill(self, outline: Line) -> Map:
        """The share of each pixel inside a closed outline."""
        return self._draw(lambda pen, side: pen.polygon(self._pixels(outline, side), fill=255))

    def strokes(self, lines: Iterable[Stroke]) -> Map:
        """The strength of the lines in each pixel, those that come later over the earlier ones."""

        def draw(pen: ImageDraw.ImageDraw, side: int) -> None:
            for line, width, strength in lines:
                wide = max(1, round(width * self.pose.scale / FIELD * side))
                pen.line(self._pixels(line, side), fill=round(255 * strength), width=wide, joint="curve")

        return self._draw(draw)

    def inside(self, outline: Line) -> Map:
        """How far each pixel lies inside a closed outline; 0 outside."""
        picture = Image.new("1", (MEASURED, MEASURED))
        ImageDraw.Draw(picture).polygon(self._pixels(outline, MEASURED), fill=1)
        distance = distance_transform_edt(np.asarray(picture)).astype(np.float32) * (FIELD / MEASURED / self.pose.scale)
        return _resized(distance, self.size)

    def texture(self, rng: np.random.Generator, grain: float) -> Map:
        """A smooth random pattern of mean 0 and variance 1, its features about `grain` mm wide."""
        nodes = max(4, ceil(2 * FIELD / grain))
        pattern = _resized(rng.standard_normal((nodes, nodes), dtype=np.float32), self.size)
        return (pattern - pattern.mean()) / pattern.std()

    @cached_property
    def _onto_film(self) -> Float[np.ndarray, "2 2"]:
        c, s = cos(self.pose.angle), sin(self.pose.angle)
        return self.pose.scale * np.array([[c, s], [-s, c]])

    def _pixels(self, line: Line, side: int) -> list[tuple[float, float]]:
        """Positions in a picture of `side` x `side` pixels, as Pillow wants them."""
        placed = (line @ self._onto_film + self.pose.shift) * (side / FIELD) + side / 2
        return [(x, y) for x, y in placed.tolist()]

    def _draw(self, draw: Callable[[ImageDraw.ImageDraw, int], None]) -> Map:
        side = self.size * max(2, ceil(DRAWN / self.size))
        picture = Image.new("L", (side, side))
        draw(ImageDraw.Draw(picture), side)
        return np.asarray(picture.reduce(side // self.size), np.float32) / 255


def closed(corners: Line) -> Line:
    """A smooth closed outline through the corners."""
    spline, _ = splprep(np.vstack([corners, corners[:1]]).T, s=0, per=True)
    return np.stack(splev(np.linspace(0, 1, 120, endpoint=False), spline), 1)


def curve(corners: Line) -> Line:
    """A smooth open line through three or more points."""
    spline, _ = splprep(corners.T, s=0, k=min(3, len(corners) - 1))
    return np.stack(splev(np.linspace(0, 1, 24), spline), 1)


def ramp(distance: Map, width: float) -> Map:
    """From 0 to 1 across `width` mm around the zero of a signed distance that is positive inside."""
    return np.clip(distance / width + 0.5, 0, 1)


def chord(inside: Map, radius: float) -> Map:
    """The part of its full thickness that a round body has `inside` mm from its edge; 1 from `radius` on."""
    depth = np.clip(inside / radius, 0, 1)
    return np.sqrt(depth * (2 - depth))


def ellipse(
    points: tuple[Map, Map], centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Map:
    """Distance inside an ellipse (negative outside), exact at its edge; `angle` turns x towards y."""
    x, y = points[0] - np.float32(centre[0]), points[1] - np.float32(centre[1])
    u, v = x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)
    level = np.hypot(u / radii[0], v / radii[1])
    slope = np.hypot(u / radii[0] ** 2, v / radii[1] ** 2)
    return level * (1 - level) / np.maximum(slope, 1e-6)


def _resized(values: Float[np.ndarray, "rows columns"], side: int) -> Map:
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))
