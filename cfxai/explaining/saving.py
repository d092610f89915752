"""An explanation as files that lose nothing: 16 bit PNG for pictures, NIfTI in the image's geometry for volumes.

They hold pixels and their geometry only: nothing of a DICOM header reaches them.
"""

import gzip
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Shaped
from PIL import Image as Pil

from cfxai.data.naming import stem
from cfxai.explaining.explanation import Explanation, called
from cfxai.explaining.sweep import Sweep
from cfxai.run.checkpoint import write_atomically
from cfxai.viz import HIT, Picture, animation, panel, telling_slice

FULL = 65535


def save(explanation: Explanation, directory: Path, name: str | None = None) -> list[Path]:
    """Writes NAME-counterfactual, -difference, -mask, -ATTRIBUTOR and -panel into `directory`; returns the paths.

    Of pictures, PNG: the counterfactual over the range that the image's format holds, or else the run's intensity
    window (16 bit grey; 8 bit colour), the difference with 65535 for the whole intensity range, the mask 0 and 255,
    saliency scaled to its own maximum. Of volumes, NIfTI: the counterfactual in native values, such as HU, the
    difference as a share of the intensity range, the mask 0 and 1, saliency as it is.

    Args:
        name: that files begin with; the image's own name without folders if None.
    """
    name = safe_name(name or explanation.opened.name)
    content = _volumes(explanation) if explanation.opened.plane else _pictures(explanation)
    paths = []
    for ending, data in content.items():
        paths.append(directory / f"{name}-{ending}")
        write_atomically(paths[-1], data)
    paths.append(directory / f"{name}-panel.png")
    probabilities = ", ".join(
        f"p({label}) {explanation.before[label]:.3f} → {explanation.after[label]:.3f}" for label in explanation.before
    )
    caption = f"{probabilities}; mask: difference above {explanation.threshold:.3f}"
    panel(paths[-1], [pictures(explanation)], titles=[called(explanation.before)], caption=caption)
    return paths


def save_sweep(sweep: Sweep, directory: Path, name: str | None = None) -> list[Path]:
    """Writes NAME-sweep.png, the image and each level side by side, and NAME-sweep.gif, there and back; their paths.

    Of a volume, the slice that changes most from the first level to the last.
    """
    stem = f"{safe_name(name or sweep.opened.name)}-sweep"
    number = int(np.abs(sweep.stack(len(sweep.levels) - 1) - sweep.stack(0)).sum((0, 2, 3)).argmax())
    drawn = [window(sweep.stack(i)[:, number], sweep.opened.limits) for i in range(len(sweep.levels))]
    titles = [f"severity {level:.3g}" for level in sweep.levels]
    normal, *others = sweep.before
    finding = others[0] if len(others) == 1 else f"not {normal}"
    before, *after = [f"p({finding}) {1 - found[normal]:.3f}" for found in (sweep.before, *sweep.probabilities)]
    row = {
        "image": window(sweep.opened.pixels[:, number], sweep.opened.limits),
        **dict(zip(titles, drawn, strict=True)),
    }
    below = {"image": before, **dict(zip(titles, after, strict=True))}
    paths = [directory / f"{stem}.png", directory / f"{stem}.gif"]
    panel(paths[0], [row], titles=[called(sweep.before)], below=[below])
    animation(paths[1], drawn, [f"{title}, {p}" for title, p in zip(titles, after, strict=True)])
    return paths


def safe_name(name: str) -> str:
    """A file name without folders, of plain characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem(Path(name.replace("\\", "/")))).lstrip(".") or "image"


def pictures(explanation: Explanation, number: int | None = None) -> dict[str, Picture]:
    """The image, its counterfactual, difference, mask and saliency maps to look at: [h w *rgb] in [0, 1].

    Of a volume, the slice of that number, or the one that tells most.
    """
    difference = explanation.difference_stack
    marked = difference > explanation.threshold
    if number is None:
        number = telling_slice(marked) or 0
    image = window(explanation.opened.pixels[:, number], explanation.opened.limits)
    return {
        "image": image,
        "counterfactual": window(explanation.changed[:, number], explanation.opened.limits),
        "|difference|": difference[number],
        "mask": tinted(image, marked[number], HIT),
        **{f"~{name}": stack[number] for name, stack in explanation.saliency_stacks.items()},
    }


def window(pixels: Float[np.ndarray, "c h w"], limits: tuple[float, float]) -> Picture:
    """Native values to [0, 1] between the two that the run takes for black and white."""
    shown = np.clip((pixels - limits[0]) / (limits[1] - limits[0]), 0, 1).astype(np.float32)
    return shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1)


def tinted(
    picture: Picture, where: Bool[np.ndarray, "h w"], colour: tuple[float, float, float]
) -> Float[np.ndarray, "h w 3"]:
    """A picture with part of it in a colour."""
    rgb = picture.copy() if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1)
    rgb[where] = 0.35 * rgb[where] + 0.65 * np.asarray(colour, rgb.dtype)
    return rgb


def png(values: Shaped[np.ndarray, "h w *rgb"]) -> bytes:
    """A PNG file of 8 or 16 bit values."""
    buffer = BytesIO()
    Pil.fromarray(values).save(buffer, format="png")
    return buffer.getvalue()


def _pictures(explanation: Explanation) -> Mapping[str, bytes]:
    low, high = explanation.opened.value_range or explanation.opened.limits
    shown = np.clip((explanation.counterfactual.astype(np.float64) - low) / (high - low), 0, 1)
    colour = shown.ndim == 3
    return {
        "counterfactual.png": png(_whole(shown, 255).astype(np.uint8) if colour else _whole(shown, FULL)),
        "difference.png": png(_whole(explanation.difference, FULL)),
        "mask.png": png(explanation.mask.astype(np.uint8) * 255),
        **{
            f"{name}.png": png(_whole(found / max(float(found.max()), 1e-30), FULL))
            for name, found in explanation.saliency.items()
        },
    }


def _whole(shares: Float[np.ndarray, "..."], most: int) -> Shaped[np.ndarray, "..."]:
    return np.round(np.clip(shares, 0, 1) * most).astype(np.uint16)


def _volumes(explanation: Explanation) -> Mapping[str, bytes]:
    arrays = {
        "counterfactual": explanation.counterfactual,
        "difference": explanation.difference,
        "mask": explanation.mask.astype(np.uint8),
        **explanation.saliency,
    }
    return {f"{name}.nii.gz": _nifti(values, explanation.opened.affine) for name, values in arrays.items()}


def _nifti(values: Shaped[np.ndarray, "..."], affine: np.ndarray | None) -> bytes:
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)
