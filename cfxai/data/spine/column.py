"""The shapes that a spine is made of: the column of bodies and discs, and what is bone in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cfxai.data.ct.shapes import Field, Points
from cfxai.data.spine.deformity import LINES, Deformity, Plane

POWER = 2.6  # of the superellipse that a vertebral body is in an axial slice
ROUNDING = 2.0  # mm, of a body's rim


@dataclass(frozen=True)
class Column:
    """Bodies and discs as one endless solid, narrow at the bodies' waists; lengths in mm.

    Attributes:
        centre: x, y, z of the middle vertebra.
        half_width: of a disc, right to left.
        half_depth: the same, back to front.
        height: of a vertebral body without a deformity.
        gap: height of a disc.
        waist: how much narrower a body is at mid-height.
    """

    centre: tuple[float, float, float]
    half_width: float
    half_depth: float
    height: float
    gap: float
    waist: float

    @property
    def pitch(self) -> float:
        """From one vertebra to the next."""
        return self.height + self.gap

    @property
    def back(self) -> float:
        """y of the bodies' posterior wall."""
        return self.centre[1] - self.half_depth

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = np.array([self.half_width, self.half_depth, np.inf])
        return np.array(self.centre) - reach, np.array(self.centre) + reach

    def distance(self, points: Points) -> Field:
        """Distance along the ray from the axis."""
        x, y, z = (points[axis] - np.float32(self.centre[axis]) for axis in range(3))
        level = (np.abs(x / self.half_width) ** POWER + np.abs(y / self.half_depth) ** POWER) ** (1 / POWER)
        inwards = self.waist * (1 + np.cos(2 * np.pi * z / self.pitch)) / 2
        along_ray = np.hypot(x, y) * (1 - 1 / np.maximum(level, 1e-3))
        return np.where(level > 1e-3, along_ray, -min(self.half_width, self.half_depth)) + inwards


@dataclass(frozen=True)
class Body:
    """One vertebral body: what lies between two endplates of a column.

    Attributes:
        column: which it is part of.
        level: 0 the middle vertebra, 1 the one above, -1 the one below.
        hollow: how deep the endplates are, mm.
        slope: relative difference of the anterior and posterior heights.
        deformities: what takes height from it; where they overlap, the larger loss counts.
    """

    column: Column
    level: int
    hollow: float
    slope: float
    deformities: Sequence[Deformity] = ()

    @property
    def z(self) -> float:
        """Of its centre."""
        return self.column.centre[2] + self.level * self.column.pitch

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.column.bounds
        reach = self.column.height * (1 + abs(self.slope)) / 2
        return np.array([*low[:2], self.z - reach]), np.array([*high[:2], self.z + reach])

    @property
    def height_loss(self) -> float:
        """The largest part of its height that is missing at the front, in the middle or at the back."""
        half, above, below = self._heights(np.zeros(len(LINES)), np.array(LINES))
        return float(((above + below) / (2 * half)).max())

    def distance(self, points: Points) -> Field:
        """The greater of the distances to the wall and to the endplates along the axis, the rim rounded off."""
        u = (points[0] - self.column.centre[0]) / self.column.half_width
        v = (points[1] - self.column.centre[1]) / self.column.half_depth
        w = points[2] - np.float32(self.z)
        half, above, below = self._heights(u, v)
        ends = np.maximum(w - half + above, -half + below - w)
        wall = self.column.distance(points)
        near = np.maximum(1 - np.abs(ends - wall) / ROUNDING, 0)
        return np.maximum(ends, wall) + ROUNDING / 4 * near**2

    def _heights(self, u: Plane, v: Plane) -> tuple[Plane, Plane, Plane]:
        """Half the height without deformities, and what is lost of it above and below; mm."""
        half = self.column.height / 2 * (1 + self.slope * v / 2) - self.hollow * np.clip(1 - u**2 - v**2, 0, 1)
        losses = [(2 * half * deformity.at(u, v), deformity.upper) for deformity in self.deformities]
        nothing = np.zeros_like(half)
        above = np.maximum.reduce([nothing, *(upper * loss for loss, upper in losses)])
        below = np.maximum.reduce([nothing, *((1 - upper) * loss for loss, upper in losses)])
        return half, above, below
