"""One scan of one phantom patient: anatomy, lesions, noise and, on request, a burned-in marker."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, UInt8

from cfxai.data.abdomen.cut import Cut, cut_around
from cfxai.data.abdomen.kidneys import Kidney
from cfxai.data.abdomen.lesions import (
    Tumour,
    paint_cyst,
    paint_tumour,
    place_cysts,
    place_graded_tumour,
    place_tumours,
)
from cfxai.data.abdomen.organs import draw_abdomen
from cfxai.data.ct.canvas import Canvas, Grid
from cfxai.data.ct.noise import grain
from cfxai.data.ct.shapes import Ellipsoid, Field, Outside, Shape

KIDNEY, TUMOUR, CYST, MARKER = 1, 2, 3, 4


@dataclass(frozen=True)
class Scan:
    """A patient's images in HU and the label map (0 background, 1 kidney, 2 tumour, 3 cyst, 4 burned-in marker).

    `healthy` is the same scan, noise and all, without the tumours; `severity` is 0 without tumour, else 1-4, or the
    grade of a graded phantom. `kidney` is the one in the middle of a cut, None in a whole abdomen.
    """

    grid: Grid
    image: Int16[np.ndarray, "x y z"]
    healthy: Int16[np.ndarray, "x y z"]
    labels: UInt8[np.ndarray, "x y z"]
    severity: int
    kidney: Kidney | None = None


def scan_patient(
    grid: Grid,
    entropy: tuple[int, int],
    tumours: bool,
    cyst_fraction: float,
    noise: float,
    shortcut: float,
    grades: int | None,
    cut: int | None = None,
) -> Scan:
    """The scan of the patient that `entropy` (seed, number) determines; with `grades`, a tumour's is its severity.

    With `cut`, a square of so many voxels around the kidney that has the worst tumour, or around either where there is
    none. Its severity is that of the tumours which it shows.

    Anatomy, lesions, noise, marker and the choice of a kidney have random streams of their own: a switch changes
    nothing but what it names.
    """
    anatomy, lesions, tumour_stream, noise_stream, burn, choice = (
        np.random.default_rng(s) for s in np.random.SeedSequence(entropy).spawn(6)
    )
    canvas = Canvas(grid, anatomy)
    kidneys = draw_abdomen(canvas, anatomy)
    labels = np.zeros(grid.shape, np.uint8)
    for kidney in kidneys:
        _label(canvas, labels, Outside(kidney.solid, kidney.sinus), KIDNEY)
    cysts = place_cysts(kidneys, lesions) if lesions.random() < cyst_fraction else []
    for cyst in cysts:
        paint_cyst(canvas, cyst, lesions)
        _label(canvas, labels, cyst, CYST)
    healthy = canvas.hu.copy()
    placed = _tumours(kidneys, cysts, grades, tumour_stream) if tumours else []
    for tumour, _ in placed:
        paint_tumour(canvas, tumour, tumour_stream)
        _label(canvas, labels, tumour.solid, TUMOUR)
    clean = [canvas.hu, healthy]
    for slice_ in np.flatnonzero((labels == TUMOUR).any((0, 1))):
        if burn.random() < shortcut:
            _burn_marker(canvas, clean, labels, int(slice_))
    texture = noise * grain(grid, noise_stream)
    image, lesion_free = (np.clip(np.rint(hu + texture), -1024, 3071).astype(np.int16) for hu in clean)
    if cut is None:
        return Scan(grid, image, lesion_free, labels, max((severity for _, severity in placed), default=0))
    kidney = _worst(placed).kidney if placed else kidneys[int(choice.integers(2))]
    part = cut_around(kidney, grid, cut)
    shown = (severity for tumour, severity in placed if _shows(canvas, part, tumour))
    here = part.window
    return Scan(part, image[here], lesion_free[here], labels[here], max(shown, default=0), kidney)


def _tumours(
    kidneys: tuple[Kidney, Kidney], cysts: list[Ellipsoid], grades: int | None, rng: np.random.Generator
) -> list[tuple[Tumour, int]]:
    """Tumours and their severities."""
    if grades is not None:
        return [place_graded_tumour(kidneys, cysts, grades, rng)]
    return [(tumour, tumour.grade) for tumour in place_tumours(kidneys, cysts, rng)]


def _worst(placed: list[tuple[Tumour, int]]) -> Tumour:
    """The tumour of the highest severity, the larger one of equals."""
    return max(placed, key=lambda pair: (pair[1], pair[0].radius))[0]


def _label(canvas: Canvas, labels: UInt8[np.ndarray, "x y z"], shape: Shape, value: int) -> None:
    """Mark the voxels that are at least half inside `shape`, and the fullest one of a shape smaller than a voxel."""
    window, coverage = canvas.coverage(shape)
    labels[window][coverage >= min(0.5, coverage.max(initial=0.0) or 1.0)] = value


def _shows(canvas: Canvas, cut: Cut, tumour: Tumour) -> bool:
    """Whether the tumour is in the label map of the cut."""
    labels = np.zeros(canvas.grid.shape, np.uint8)
    _label(canvas, labels, tumour.solid, TUMOUR)
    return bool(labels[cut.window].any())


def _burn_marker(canvas: Canvas, images: list[Field], labels: UInt8[np.ndarray, "x y z"], slice_: int) -> None:
    """Burn the letter L, 16 mm high, into one slice at the left front corner of the central 192 mm."""
    x, y = canvas.grid.points[:2, :, :, slice_]
    stem = (np.abs(x + 74) <= 2.5) & (np.abs(y - 74) <= 8)
    foot = (np.abs(x + 80) <= 8) & (np.abs(y - 68) <= 2.5)
    for image in images:
        image[:, :, slice_][stem | foot] = 1000
    labels[:, :, slice_][stem | foot] = MARKER
