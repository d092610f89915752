"""Pictures: rows of patients, columns of image, counterfactual, difference, mask and saliency maps; animations."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy import ndarray
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from cfxai.run.checkpoint import write_atomically

# Okabe & Ito's colours, told apart by colour-blind readers too.
HIT, FALSE, MISSED = (0.0, 0.62, 0.45), (0.84, 0.37, 0.0), (0.94, 0.89, 0.26)

Picture = Float[ndarray, "h w *rgb"]

FRAME, LARGEST_FRAME = 384, 1024
"""Pixels that the longer side of an animation's pictures has at least, and at most."""
MILLISECONDS = 140
"""That each frame is seen."""


def telling_slice(*masks: Bool[ndarray, "*spatial"]) -> int | None:
    """The slice of a volume to look at: where the first mask that marks anything marks most, of equals the middlemost.

    None for images of two axes, which have no slices.
    """
    if masks[0].ndim == 2:
        return None
    areas = next((mask.sum((1, 2)) for mask in masks if mask.any()), np.zeros(len(masks[0])))
    best, middle = np.flatnonzero(areas == areas.max()), len(masks[0]) // 2
    return int(best[np.abs(best - middle).argmin()])


def cut(values: Shaped[ndarray, "*spatial"], number: int | None) -> Shaped[ndarray, "h w"]:
    """A map, or the slice of that number of a volume's map."""
    return values if number is None else values[number]


def grey(image: Float[ndarray, "c *spatial"], number: int | None = None) -> Picture:
    """[-1, 1] to a displayable [0, 1]: three channels are colours, of others the middle one is shown.

    A volume shows the slice of that number.
    """
    shown = np.clip((np.asarray(image, np.float32) + 1) / 2, 0, 1)
    slices = [cut(channel, number) for channel in shown]
    return np.stack(slices, -1) if len(slices) == 3 else slices[len(slices) // 2]


def agreement(picture: Picture, mask: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    """A picture with hits in green, false alarms in orange and missed lesion in yellow."""
    rgb = picture.copy() if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1)
    for where, colour in ((mask & truth, HIT), (mask & ~truth, FALSE), (~mask & truth, MISSED)):
        rgb[where] = 0.35 * rgb[where] + 0.65 * np.asarray(colour)
    return rgb


def panel(
    path: Path,
    rows: Sequence[Mapping[str, Picture]],
    *,
    titles: Sequence[str],
    caption: str = "",
    below: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes a lossless PNG: one row a patient, one column a kind of picture; a row may lack some.

    `titles` stand beside the rows, `below` has for each row what stands under its pictures, by column.

    Maps whose name starts with "|" (differences) or "~" (saliency) are drawn in colour; differences share one scale
    through all rows, which the colour bar gives; saliency has a scale per map, since only its ranking means anything.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    layout = ConstrainedLayoutEngine()
    figure = Figure(figsize=(1.75 * len(columns) + 0.6, 1.75 * len(rows) + 0.6), dpi=110, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    differences = [row[name] for row in rows for name in columns if name.startswith("|") and name in row]
    top = max([float(d.max()) for d in differences] + [1e-6])
    drawn = None
    for i, row in enumerate(rows):
        for j, name in enumerate(columns):
            ax = axes[i, j]
            ax.set_xticks([])
            ax.set_yticks([])
            if i == 0:
                ax.set_title(name.lstrip("~"), fontsize=9)
            if name not in row:
                ax.axis("off")
            elif name.startswith("|"):
                drawn = ax.imshow(row[name], cmap="magma", vmin=0, vmax=top)
            elif name.startswith("~"):
                ax.imshow(row[name], cmap="magma")
            else:
                ax.imshow(row[name], cmap="gray", vmin=0, vmax=1)
        axes[i, 0].set_ylabel(titles[i], fontsize=7)
        for name, text in (below[i] if below else {}).items():
            axes[i, columns.index(name)].set_xlabel(text, fontsize=7)
    if drawn is not None:
        label = "|x - x_cf|, share of\nthe intensity range"  # in two lines, a single row is tall enough for it
        figure.colorbar(drawn, ax=axes, shrink=0.5).set_label(label, fontsize=7)
    if caption:
        figure.text(0.01, 0.002, caption, fontsize=7, va="bottom")
        layout.set(rect=(0, 0.03, 1, 0.97))
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def animation(path: Path, frames: Sequence[Picture], captions: Sequence[str]) -> None:
    """Writes a GIF that goes through the pictures and back, for ever; a line of text stands under each."""
    drawn = [_captioned(frame, caption) for frame, caption in zip(frames, captions, strict=True)]
    if drawn[0].mode == "RGB":  # colours of one palette do not flicker
        together = Pil.fromarray(np.concatenate([np.asarray(one) for one in drawn]))
        palette = together.quantize(256, Pil.Quantize.MEDIANCUT)
        drawn = [one.quantize(palette=palette, dither=Pil.Dither.NONE) for one in drawn]
    there_and_back = [*drawn, *drawn[-2:0:-1]]
    buffer = BytesIO()
    there_and_back[0].save(
        buffer, format="gif", save_all=True, append_images=there_and_back[1:], duration=MILLISECONDS, loop=0
    )
    write_atomically(path, buffer.getvalue())


def _captioned(picture: Picture, caption: str) -> Pil.Image:
    """In 8 bit, a small one enlarged by a whole factor and a large one shrunk, above white text on black."""
    image = Pil.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    image.thumbnail((LARGEST_FRAME, LARGEST_FRAME), Pil.Resampling.BOX)
    factor = -(-FRAME // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Pil.Resampling.NEAREST)
    font = ImageFont.load_default(FRAME // 24)
    frame = Pil.new(image.mode, (image.width, image.height + FRAME // 16))
    frame.paste(image)
    ImageDraw.Draw(frame).text((FRAME // 48, image.height + FRAME // 96), caption, "white", font)
    return frame
