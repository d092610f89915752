"""The tab that shows the counterfactual, where it differs from the image, and what the classifier says of both."""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import gradio as gr
from PIL import Image as Pil

from cfxai.app.messages import in_a_sentence
from cfxai.app.pictures import outlined, overlay, picture
from cfxai.app.severity_slider import SeveritySlider, Swept
from cfxai.config.catalogue import options
from cfxai.explaining.explanation import Explanation, called
from cfxai.explaining.opening import Opened
from cfxai.explaining.saving import window
from cfxai.loaded import LoadedRun
from cfxai.viz import telling_slice

NO_MAP = "none"
HEIGHT = 430
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIVE: dict[str, Any] = PRIVATE | {"trigger_mode": "always_last", "queue": True}


class CounterfactualTab:
    """Builds its components where it is made; `explain` fills `outputs` from the image and `inputs`."""

    def __init__(self, run: LoadedRun) -> None:
        self.run = run
        found = gr.State(None, time_to_live=3600)
        with gr.Row():
            before = gr.Label(label="Classifier, of the image", elem_id="before")
            after = gr.Label(label="Classifier, of the counterfactual", elem_id="after")
        verdict = gr.Markdown(elem_id="verdict")
        number = gr.Slider(0, 1, 0, step=1, label="Slice", visible=False, elem_id="slice")
        with gr.Row():
            slider = gr.ImageSlider(
                label="Image | counterfactual", type="pil", format="png", interactive=False, height=HEIGHT,
                max_height=HEIGHT,
                buttons=["fullscreen"], elem_id="slider",
            )  # fmt: skip
            difference = gr.Image(
                label="Difference, and the mask's outline", type="pil", format="png", interactive=False, height=HEIGHT,
                buttons=["fullscreen"], elem_id="difference",
            )  # fmt: skip
            saliency = gr.Image(
                label="Saliency", type="pil", format="png", interactive=False, height=HEIGHT, visible=False,
                buttons=["fullscreen"], elem_id="saliency",
            )  # fmt: skip
        with gr.Row():
            threshold = gr.Slider(
                0, 1, round(run.threshold, 3), step=0.001, label="Mask threshold", elem_id="threshold",
                info="of |x - x_cf|, as a share of the range",
            )  # fmt: skip
            opacity = gr.Slider(0, 1, 0.7, step=0.05, label="Opacity of the maps", elem_id="opacity")
            name = gr.Dropdown([NO_MAP, *options("attribution")], value=NO_MAP, label="Saliency beside it",
                               elem_id="attributor")  # fmt: skip
        self.severity = SeveritySlider(run, found, number)
        with gr.Row():
            save = gr.Button("Make a zip of the results", interactive=False, elem_id="save")
            file = gr.File(label="Results", visible=False, interactive=False, elem_id="results")

        self.inputs = [threshold, opacity, name]
        self.outputs = [found, before, after, verdict, number, slider, difference, saliency, save, file]
        self.outputs += self.severity.outputs
        drawn = [verdict, slider, difference, saliency]
        settings = [found, number, threshold, opacity]
        gr.on([threshold.input, opacity.input, number.input], self._draw, settings, drawn, **LIVE)
        name.input(
            in_a_sentence(self._map), [found, name], found, concurrency_id="explain", concurrency_limit=1, **PRIVATE
        ).success(self._draw, settings, drawn, **PRIVATE)
        save.click(
            in_a_sentence(self._zip), [found, threshold, self.severity.swept], file,
            concurrency_id="explain", api_visibility="private",
        )  # fmt: skip

    def explain(self, opened: Opened | None, threshold: float, opacity: float, name: str) -> list[Any]:
        """Values for `outputs`."""
        if opened is None:
            return [gr.skip()] * len(self.outputs)
        explanation = self.run.explain(opened, threshold=threshold, attributors=[] if name == NO_MAP else [name])
        slices = opened.pixels.shape[1]
        number = telling_slice(explanation.difference_stack > threshold) or 0
        slider = gr.update(visible=slices > 1, maximum=max(1, slices - 1), value=number)
        verdict, *pictures = self._draw(explanation, number, threshold, opacity)
        labels = [dict(explanation.before), dict(explanation.after)]
        return [
            explanation, *labels, verdict, slider, *pictures, gr.update(interactive=True),
            gr.update(value=None, visible=False), *self.severity.begin(opened),
        ]  # fmt: skip

    def _draw(self, found: Explanation | None, number: float, threshold: float, opacity: float) -> list[Any]:
        if found is None:
            return [gr.skip()] * 4
        k, limits = int(number), found.opened.limits
        image = window(found.opened.pixels[:, k], limits)
        both = (picture(image), picture(window(found.changed[:, k], limits)))
        stack = found.difference_stack
        marked = stack > threshold
        difference = outlined(overlay(image, stack[k], float(stack.max()), opacity), marked[k])
        saliency = gr.update(visible=False)
        for name, maps in found.saliency_stacks.items():
            drawn: Pil.Image = overlay(image, maps[k], float(maps.max()), opacity)
            saliency = gr.update(value=drawn, visible=True, label=f"Saliency: {name}")
        return [_verdict(replace(found, threshold=threshold)), both, difference, saliency]

    def _map(self, found: Explanation | None, name: str) -> Any:
        if found is None:
            return gr.skip()
        maps = {} if name == NO_MAP else {name: self.run.saliency(found.opened, name)}
        return replace(found, saliency_stacks=maps)

    def _zip(self, found: Explanation | None, threshold: float, swept: Swept) -> Any:
        """The files of `Explanation.save`, and of each `Sweep` so far; their names say nothing of the upload."""
        if found is None:
            return gr.skip()
        with TemporaryDirectory() as folder:
            replace(found, threshold=threshold).save(folder, "image")
            for number, one in swept.items():
                one.save(folder, "image" if len(found.opened.slices) == 1 else f"image-slice-{number + 1}")
            archive = shutil.make_archive(str(Path(mkdtemp(), "explanation")), "zip", folder)
        return gr.update(value=archive, visible=True)


def _verdict(found: Explanation) -> str:
    size = found.mask_size
    area = f"{100 * found.mask.mean():.2f} % of the image"
    if size is not None:
        area += f", {size / 1000:.1f} cm³" if found.opened.plane else f", {size / 100:.1f} cm²"
    flip = "changes the class" if found.flipped else "does not change the class"
    limits = " ".join(note for note in found.notes if note not in found.opened.notes)
    return (
        f"Called **{called(found.before)}**; asked for **{found.target}**, which {flip}. The mask is {area}. {limits}"
    )
