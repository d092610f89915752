"""One CT volume of one vertebra, with and without its fracture."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int16, UInt8

from cfxai.data.ct.canvas import Canvas, Grid
from cfxai.data.ct.noise import grain
from cfxai.data.ct.shapes import Field
from cfxai.data.spine.anatomy import Spine, draw_body, draw_pose, draw_spine, draw_surroundings
from cfxai.data.spine.column import Body
from cfxai.data.spine.deformity import draw_fracture, genant_grade


@dataclass(frozen=True)
class VertebraScan:
    """A vertebra in CT, in the middle of the volume.

    Attributes:
        image: HU.
        healthy: the same volume, noise and all, without the fracture.
        mask: 1 where the fracture took bone away: voxels with their centre inside the healthy vertebral body and
            outside the fractured one.
        height_loss: the largest part of the height that is missing at the front, in the middle or at the back.
        kind: of the fracture: wedge, biconcave or crush; empty without one.
    """

    image: Int16[np.ndarray, "x y z"]
    healthy: Int16[np.ndarray, "x y z"]
    mask: UInt8[np.ndarray, "x y z"]
    height_loss: float
    kind: str

    @property
    def grade(self) -> int:
        """Genant's, 0 to 3."""
        return genant_grade(self.height_loss)


def scan_vertebra(grid: Grid, entropy: tuple[int, int], fractured: bool, noise: float) -> VertebraScan:
    """The scan of the patient that `entropy` (seed, number) determines.

    Anatomy, fracture and noise have random streams of their own: `fractured` changes nothing else. The neighbours stay
    where they were; disc fills the height that is lost.
    """
    anatomy, disease, device = (np.random.default_rng(s) for s in np.random.SeedSequence(entropy).spawn(3))
    canvas = Canvas(grid, anatomy, warp=0.8, axes=draw_pose(anatomy))
    spine = draw_spine(anatomy)
    draw_surroundings(canvas, spine, anatomy)
    body, kind = spine.middle, ""
    if fractured:
        fracture = draw_fracture(disease)
        body, kind = replace(body, deformities=(*body.deformities, fracture)), fracture.kind
    texture = noise * grain(grid, device)
    image, healthy = (_digitised(_with_body(canvas, spine, which) + texture) for which in (body, spine.middle))
    lost = (spine.bone(spine.middle).distance(canvas.points) <= 0) & (spine.bone(body).distance(canvas.points) > 0)
    return VertebraScan(image, healthy, lost.astype(np.uint8), body.height_loss, kind)


def _with_body(canvas: Canvas, spine: Spine, body: Body) -> Field:
    """The canvas with the middle vertebral body painted in."""
    before = canvas.hu.copy()
    draw_body(canvas, spine, body)
    painted, canvas.hu = canvas.hu, before
    return painted


def _digitised(hu: Field) -> Int16[np.ndarray, "x y z"]:
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
