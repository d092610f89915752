"""Pictures: rows of patients, columns of image, counterfactual, difference, mask against truth, and saliency maps."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy import ndarray

from cfxai.run.checkpoint import write_atomically

# Okabe & Ito's colours, told apart by colour-blind readers too.
HIT, FALSE, MISSED = (0.0, 0.62, 0.45), (0.84, 0.37, 0.0), (0.94, 0.89, 0.26)

Picture = Float[ndarray, "h w *rgb"]


def grey(image: Float[ndarray, "c *spatial"]) -> Picture:
    """[-1, 1] to a displayable [0, 1] slice: RGB stays colour, a volume shows its middle slice."""
    shown = np.clip((np.asarray(image, np.float32) + 1) / 2, 0, 1)
    if shown.ndim == 4:
        shown = shown[:, shown.shape[1] // 2]
    return np.moveaxis(shown, 0, -1) if shown.shape[0] == 3 else shown[0]


def middle(saliency: ndarray) -> ndarray:
    """A map as a slice: a volume's middle one."""
    return saliency[saliency.shape[0] // 2] if saliency.ndim == 3 else saliency


def agreement(
    image: Float[ndarray, "c *spatial"], mask: Bool[ndarray, "*spatial"], truth: Bool[ndarray, "*spatial"]
) -> Picture:
    """The image with hits in green, false alarms in orange and missed lesion in yellow."""
    base = grey(image)
    rgb = base.copy() if base.ndim == 3 else np.repeat(base[..., None], 3, -1)
    m, t = middle(mask), middle(truth)
    for where, colour in ((m & t, HIT), (m & ~t, FALSE), (~m & t, MISSED)):
        rgb[where] = 0.35 * rgb[where] + 0.65 * np.asarray(colour)
    return rgb


def panel(path: Path, rows: Sequence[Mapping[str, Picture]], *, titles: Sequence[str], caption: str = "") -> None:
    """Writes a lossless PNG: one row a patient, one column a kind of picture; a row may lack some.

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
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, shrink=0.5, label="|x - x_cf| (share of the intensity range)")
    if caption:
        figure.text(0.01, 0.002, caption, fontsize=7, va="bottom")
        layout.set(rect=(0, 0.03, 1, 0.97))
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
