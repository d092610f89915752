"""One patient's chest radiograph, with its lesion-free counterpart and its label maps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt16

from cfxai.data.chest.bones import draw_bones
from cfxai.data.chest.distractors import draw_distractors
from cfxai.data.chest.exposure import BONE, TISSUE, draw_exposure, expose
from cfxai.data.chest.film import Film, Map, Pose
from cfxai.data.chest.opacities import Opacity, draw_opacities
from cfxai.data.chest.thorax import AERATED, LEFT_LUNG, RIGHT_LUNG, draw_build, draw_thorax
from cfxai.data.chest.vessels import draw_vessels

WHITE = 65535


@dataclass(frozen=True)
class Radiograph:
    """A frontal radiograph of 16 bit, bright = dense, seen as if facing the patient.

    Attributes:
        image: the radiograph.
        healthy: the same one, noise and all, without its opacities.
        mask: 1 where an opacity is.
        regions: 1 right lung, 2 left lung, 3 heart, 4 mediastinum, 5 diaphragm and abdomen, 6 outside the body, else 0.
        opacities: those of pneumonia; empty when normal.
        distractors: names of what else was drawn in; see `cfxai.data.chest.distractors`.
    """

    image: UInt16[np.ndarray, "h w"]
    healthy: UInt16[np.ndarray, "h w"]
    mask: UInt8[np.ndarray, "h w"]
    regions: UInt8[np.ndarray, "h w"]
    opacities: tuple[Opacity, ...]
    distractors: tuple[str, ...]

    @property
    def severity(self) -> int:
        """0 when normal; else 1, and one more each for 8 % and 20 % of the lungs and for a density of 0.4."""
        if not self.opacities:
            return 0
        lungs = np.isin(self.regions, (RIGHT_LUNG, LEFT_LUNG)).sum()
        share = self.mask.sum() / max(lungs, 1)
        return 1 + int(share >= 0.08) + int(share >= 0.2) + int(max(o.density for o in self.opacities) >= 0.4)


def take_radiograph(size: int, entropy: tuple[int, int], pneumonia: bool, noise: float) -> Radiograph:
    """The radiograph of the patient that `entropy` (seed, number) determines.

    Anatomy, pneumonia, distractors and exposure have random streams of their own: `pneumonia` changes nothing else.
    """
    anatomy, disease, others, device = (np.random.default_rng(s) for s in np.random.SeedSequence(entropy).spawn(4))
    shift, scale = (anatomy.normal(0, 5), anatomy.normal(4, 6)), np.clip(anatomy.normal(1.13, 0.07), 0.95, 1.3)
    film = Film(size, Pose(shift, anatomy.normal(0, 0.03), float(scale)))
    build = draw_build(anatomy)
    thorax = draw_thorax(film, build, anatomy)
    bones, blood = draw_bones(film, build, anatomy), draw_vessels(film, anatomy)
    lung = thorax.lung / build.depth
    lobules = 4 * (0.6 * film.texture(anatomy, 8) + 0.4 * film.texture(anatomy, 4))
    muscle = 1 + 0.012 * film.texture(anatomy, 35) + 0.006 * film.texture(anatomy, 9)
    air = np.maximum(AERATED * thorax.lung - lung * (blood + lobules), 0)
    distractors = draw_distractors(film, build, others)
    tissue = muscle * thorax.body + distractors.tissue * (thorax.body > 0) - thorax.gas - air
    healthy = TISSUE * tissue + (BONE - TISSUE) * bones * (thorax.body > 0) + distractors.metal
    opacities = draw_opacities(film, build, thorax, disease) if pneumonia else []
    filled = _together([opacity.filled for opacity in opacities], film)
    sick = healthy + TISSUE * filled * air
    without, image = expose(film, [healthy, sick], draw_exposure(noise, device), device)
    return Radiograph(
        image=_digitised(image),
        healthy=_digitised(without),
        mask=(filled > 0).astype(np.uint8),
        regions=thorax.regions,
        opacities=tuple(opacities),
        distractors=distractors.names,
    )


def _together(filled: list[Map], film: Film) -> Map:
    """The part of the air that several opacities fill together."""
    left = np.ones((film.size, film.size), np.float32)
    for part in filled:
        left = left * (1 - part)
    return 1 - left


def _digitised(grey: Map) -> UInt16[np.ndarray, "h w"]:
    return np.rint(grey * WHITE).astype(np.uint16)
