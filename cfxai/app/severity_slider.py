"""A slider that shows the image at any severity, where the run's method has such a scale."""

from typing import Any

import gradio as gr
import numpy as np

from cfxai.app.messages import in_a_sentence
from cfxai.app.pictures import picture
from cfxai.explaining.explanation import Explanation
from cfxai.explaining.opening import Opened
from cfxai.explaining.saving import window
from cfxai.explaining.sweep import Sweep
from cfxai.loaded import LoadedRun
from cfxai.sweeps import usual_levels

HEIGHT = 430
Swept = dict[int, Sweep]
"""What was rendered of the image so far, by slice; 0 where it is explained as a whole."""


class SeveritySlider:
    """Builds its components where it is made, all hidden; `begin` fills `outputs` for a new image.

    The image is rendered at all levels when the slider is first moved, of a volume in slices the slice that is shown.

    Args:
        found: holds the explanation of the image.
        number: which slice is shown.
    """

    def __init__(self, run: LoadedRun, found: gr.State, number: gr.Slider) -> None:
        self.run = run
        self.swept = swept = gr.State({}, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=1):
                slider = gr.Slider(0, 1, 0, label="Severity", visible=False, elem_id="severity")
                label = gr.Label(label="Classifier, at this severity", visible=False, elem_id="at-severity-label")
            shown = gr.Image(
                label="The image at this severity", type="pil", format="png", interactive=False, height=HEIGHT,
                visible=False, buttons=["fullscreen"], elem_id="at-severity",
            )  # fmt: skip
        self.outputs: list[Any] = [swept, slider, label, shown]
        inputs, drawn = [found, swept, number, slider], [swept, label, shown]
        one_at_a_time: dict[str, Any] = {
            "concurrency_id": "explain", "concurrency_limit": 1, "api_visibility": "private",
            "trigger_mode": "always_last",
        }  # fmt: skip
        slider.input(in_a_sentence(self._show), inputs, drawn, show_progress="minimal", **one_at_a_time)
        number.input(self._follow, inputs, drawn, show_progress="hidden", **one_at_a_time)

    def begin(self, opened: Opened) -> list[Any]:
        """Values for `outputs`: the slider stands where the method sees the image."""
        severity, hidden = self.run.severity(opened), gr.update(value=None, visible=False)
        if severity is None:
            return [{}, gr.update(visible=False), hidden, hidden]
        levels = usual_levels(self.run.require_graded()).tolist()
        slider = gr.update(
            visible=True, minimum=levels[0], maximum=levels[-1], step=levels[1] - levels[0],
            value=min(levels, key=lambda level: abs(level - severity)),
            info=f"{levels[0]:g} = normal, {levels[-1]:g} = {_worst(levels[-1])}; the image is at {severity:.2f}",
        )  # fmt: skip
        return [{}, slider, hidden, hidden]

    def _show(self, found: Explanation | None, swept: Swept, number: float, level: float) -> list[Any]:
        if found is None:
            return [gr.skip()] * 3
        part = found.opened.only(int(number))
        key = 0 if part is found.opened else int(number)
        if key not in swept:
            swept = {**swept, key: self.run.sweep(part)}
        return [swept, *_drawn(swept[key], int(number), level)]

    def _follow(self, found: Explanation | None, swept: Swept, number: float, level: float) -> list[Any]:
        """Another slice: shows what was rendered of it already, or nothing."""
        if found is None or not swept:
            return [gr.skip()] * 3
        if (one := swept.get(int(number), swept.get(0))) is None:
            hidden = gr.update(value=None, visible=False)
            return [gr.skip(), hidden, hidden]
        return [gr.skip(), *_drawn(one, int(number), level)]


def _drawn(swept: Sweep, number: int, level: float) -> list[Any]:
    position = int(np.abs(np.array(swept.levels) - level).argmin())
    image = picture(window(swept.stack(position)[:, number], swept.opened.limits))
    return [
        gr.update(value=dict(swept.probabilities[position]), visible=True),
        gr.update(value=image, visible=True),
    ]


def _worst(level: float) -> str:
    return "as abnormal images typically are" if level == 1 else "the worst grade"
