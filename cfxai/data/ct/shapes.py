"""Solid geometry in millimetres, each solid a signed distance that is negative inside.

Axes run to the patient's right (x), front (y) and head (z); the origin is the centre of the volume.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "3 x y z"]
Field = Float[np.ndarray, "x y z"]
Number = float | int  # mm unless said otherwise
Vector = tuple[Number, Number, Number]


@runtime_checkable
class Shape(Protocol):
    """A solid: the box that holds it and the signed distance to its surface, both in mm."""

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]: ...

    def distance(self, points: Points) -> Field: ...


class Waves:
    """A smooth random function of position, mean 0 and variance 1: plane waves in random directions."""

    def __init__(self, rng: np.random.Generator, wavelength: Number, count: int = 5) -> None:
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        scale = 2 * np.pi / wavelength * rng.uniform(0.6, 1.4, (count, 1))
        self.wave_vectors = (direction * scale).astype(np.float32)
        self.phases = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)

    def __call__(self, points: Points) -> Field:
        waves = np.sin(np.tensordot(self.wave_vectors, points, 1) + self.phases)
        return waves.sum(0) * (2 / len(waves)) ** 0.5


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; the rows of `axes` are its principal directions."""

    centre: Vector
    radii: Vector
    axes: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3, dtype=np.float32))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = np.sqrt((np.square(self.axes) * np.square(self.radii)[:, None]).sum(0))
        return np.subtract(self.centre, reach), np.add(self.centre, reach)

    def local(self, points: Points) -> Points:
        """Points along the principal directions, from the centre; mm."""
        return np.tensordot(self.axes, points - _column(self.centre), 1)

    def distance(self, points: Points) -> Field:
        """First-order distance f (f - 1) / |grad f|, f = |p / radii|: exact at the surface."""
        scaled = self.local(points) / _column(self.radii)
        level = np.linalg.norm(scaled, axis=0)
        slope = np.linalg.norm(scaled / _column(self.radii), axis=0)
        return level * (level - 1) / np.maximum(slope, 1e-6)


@dataclass(frozen=True)
class Capsule:
    """A round tube from `start` to `end`."""

    start: Vector
    end: Vector
    radius: Number

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(self.start, self.end) - self.radius, np.maximum(self.start, self.end) + self.radius

    def distance(self, points: Points) -> Field:
        axis, offset = _column(self.end) - _column(self.start), points - _column(self.start)
        along = np.clip((axis * offset).sum(0) / max(np.square(axis).sum(), 1e-6), 0, 1)
        return np.linalg.norm(offset - axis * along, axis=0) - self.radius


@dataclass(frozen=True)
class Trunk:
    """An endless vertical cylinder whose section is the superellipse |x/a|^n + |y/b|^n = 1."""

    centre: tuple[Number, Number]
    half_width: Number
    half_depth: Number
    power: Number = 2.4

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = np.array([self.half_width, self.half_depth, np.inf])
        return np.array([*self.centre, 0]) - reach, np.array([*self.centre, 0]) + reach

    def distance(self, points: Points) -> Field:
        """Distance to the surface along the ray from the axis."""
        x, y = points[0] - self.centre[0], points[1] - self.centre[1]
        level = np.abs(x / self.half_width) ** self.power + np.abs(y / self.half_depth) ** self.power
        level **= 1 / self.power
        return np.hypot(x, y) * (1 - 1 / np.maximum(level, 1e-3))


@dataclass(frozen=True)
class Above:
    """Everything in front of a coronal plane: where gas collects in a patient lying on the back."""

    level: Number

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-np.inf, self.level, -np.inf]), np.full(3, np.inf)

    def distance(self, points: Points) -> Field:
        return self.level - points[1]


@dataclass(frozen=True)
class Grown:
    """`shape` with its surface moved outwards by `margin` mm (inwards if negative)."""

    shape: Shape
    margin: Number

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.shape.bounds
        return low - self.margin, high + self.margin

    def distance(self, points: Points) -> Field:
        return self.shape.distance(points) - self.margin


@dataclass(frozen=True)
class Rough:
    """`shape` with an irregular surface: moved along its normal by `amplitude` mm times `waves`."""

    shape: Shape
    waves: Waves
    amplitude: Number

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.shape.bounds
        return low - 2 * self.amplitude, high + 2 * self.amplitude

    def distance(self, points: Points) -> Field:
        return self.shape.distance(points) + self.amplitude * self.waves(points)


@dataclass(frozen=True)
class Inside:
    """The part of `shape` inside `other`."""

    shape: Shape
    other: Shape

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        (low, high), (other_low, other_high) = self.shape.bounds, self.other.bounds
        return np.maximum(low, other_low), np.minimum(high, other_high)

    def distance(self, points: Points) -> Field:
        return np.maximum(self.shape.distance(points), self.other.distance(points))


@dataclass(frozen=True)
class Outside:
    """The part of `shape` outside `other`."""

    shape: Shape
    other: Shape

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.shape.bounds

    def distance(self, points: Points) -> Field:
        return np.maximum(self.shape.distance(points), -self.other.distance(points))


def _column(vector: Vector) -> Float[np.ndarray, "3 1 1 1"]:
    """A vector as it broadcasts against points."""
    return np.asarray(vector, np.float32)[:, None, None, None]
