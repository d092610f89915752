"""One HTML file that shows a study: images, maps and regions to look at, box plots, and every test in words.

It needs no network and no server: pictures are embedded, and the few lines of script are in the file.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image as Picture
from skimage.segmentation import find_boundaries
from torch import Tensor

from cfxai.region_study.measurement import Case, Measured
from cfxai.region_study.questions import Section
from cfxai.run.checkpoint import write_atomically
from cfxai.viz import cut, grey, telling_slice

TOP = 99.5
"""Percentile of |map| over the images shown that has the full colour: one scale for each method, so that images can be
compared."""
FINE = 384
"""Pixels of the longer side at which the regions' borders are drawn, at least."""
FAINT = 0.08
"""Share of that below which a map is transparent."""


def write_page(
    path: Path,
    title: str,
    measured: Measured,
    sections: Sequence[Section],
    *,
    facts: Mapping[str, str],
    notes: Sequence[str],
    score: str,
) -> None:
    """Writes the page; `facts` are shown at its top, `notes` are what a reader must know before believing it."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    text = environment.get_template("page.html").render(
        title=title,
        facts=facts,
        notes=notes,
        methods=measured.methods,
        cases=json_for_script(_cases(measured)),
        plots={name: Markup(box_plots(measured, m, score)) for m, name in enumerate(measured.methods)},
        score=score,
        sections=sections,
    )
    write_atomically(path, text.encode())


def json_for_script(value: Any) -> Markup:
    """JSON that may stand inside a script element whatever names it holds."""
    return Markup(json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _cases(measured: Measured) -> list[dict[str, Any]]:
    tops = {
        method: max(1e-30, _percentile([case.maps[method] for case in shown]))
        for method in measured.methods
        if (shown := list(measured.cases.values()))
    }
    cases = []
    for place, case in sorted(measured.cases.items(), key=lambda item: -measured.abnormal[item[0]]):
        row, shares, number = measured.images.iloc[place], measured.scores["share"][place], _slice(case)
        cases.append({
            "name": f"{row['id']} – {'abnormal' if row['label'] else 'normal'}, {row['outcome']}, "
                    f"p(abnormal) {row['probability']:.2f}",
            "image": _png(grey(case.image.numpy(), number)),
            "regions": _png(_outlines(cut_all(case.regions.numpy(), number))),
            "maps": {m: _png(_coloured(cut(case.maps[m].numpy(), number), tops[m])) for m in measured.methods},
            "shares": {
                method: [[name, None if np.isnan(v) else round(float(v), 4)]
                         for name, v in zip(measured.regions, shares[m], strict=True)]
                for m, method in enumerate(measured.methods)
            },
        })  # fmt: skip
    return cases


def _percentile(maps: Sequence[Tensor]) -> float:
    return float(np.percentile(np.concatenate([np.abs(one.numpy()).ravel() for one in maps]), TOP))


def _slice(case: Case) -> int | None:
    """The slice of a volume in which the first map is strongest."""
    strength = np.abs(next(iter(case.maps.values())).numpy())
    return telling_slice(strength >= np.percentile(strength, TOP))


def cut_all(maps: Float[ndarray, "r *spatial"], number: int | None) -> Float[ndarray, "r h w"]:
    return np.stack([cut(one, number) for one in maps])


def _coloured(saliency: Float[ndarray, "h w"], top: float) -> Float[ndarray, "h w 4"]:
    """Red for the target, blue against it; transparent where there is little."""
    strength = np.clip(np.abs(saliency) / top, 0, 1)
    rgba = colormaps["RdBu_r"](0.5 + 0.5 * np.sign(saliency) * np.sqrt(strength))
    rgba[..., 3] = np.where(strength < FAINT, 0, np.sqrt(strength))
    return rgba


def _outlines(regions: Float[ndarray, "r h w"]) -> Float[ndarray, "height width 4"]:
    """The borders of the regions on a transparent ground, fine enough to be thin lines."""
    larger = -(-FINE // max(regions.shape[1:]))
    regions = regions.repeat(larger, 1).repeat(larger, 2)
    edges = np.zeros(regions.shape[1:], bool)
    for region in regions > 0.5:
        edges |= find_boundaries(region, mode="inner")
    rgba = np.zeros((*edges.shape, 4))
    rgba[edges] = (0.94, 0.89, 0.26, 0.9)
    return rgba


def _png(picture: Float[ndarray, "h w *channels"]) -> str:
    """A data URI."""
    buffer = BytesIO()
    Picture.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).save(buffer, format="png")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def box_plots(measured: Measured, m: int, score: str) -> str:
    """An SVG: the score in each region, normal images beside abnormal ones; every point is a patient's mean."""
    values, labels = measured.scores[score][:, m], measured.abnormal
    figure = Figure(figsize=(max(5.0, 1.1 * len(measured.regions) + 1.5), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for group, (name, colour) in enumerate((("normal", "#56b4e9"), ("abnormal", "#d55e00"))):
        means = measured.images[["patient"]].assign(**{str(r): values[:, r] for r in range(values.shape[1])})
        table = means[labels == group].groupby("patient").mean().to_numpy()
        columns = [column[np.isfinite(column)] for column in table.T]
        places = np.arange(len(columns)) + 0.36 * group - 0.18
        drawn = axes.boxplot(columns, positions=places, widths=0.3, patch_artist=True, showfliers=False)
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        for line in drawn["medians"]:
            line.set(color="black")
        jitter = np.random.default_rng(0)
        for place, column in zip(places, columns, strict=True):
            axes.plot(place + jitter.uniform(-0.1, 0.1, len(column)), column, ".", color="black", ms=2, alpha=0.35)
        axes.plot([], [], "s", color=colour, label=f"{name} ({len(table)} patients)")
    axes.set_xticks(range(len(measured.regions)), measured.regions, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel(score)
    axes.legend(fontsize=8, frameon=False)
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
