"""The tab that shows what the classifier says of the image, and where it looks."""

from typing import Any

import gradio as gr

from cfxai.app.pictures import overlay, picture
from cfxai.errors import UnsuitableError
from cfxai.explaining.opening import Opened
from cfxai.explaining.saving import window
from cfxai.loaded import LoadedRun

MAP = "grad_cam"
OPACITY = 0.6
HEIGHT = 430


class ClassificationTab:
    """Builds its components where it is made; `explain` fills `outputs` from the image."""

    inputs: list[Any] = []

    def __init__(self, run: LoadedRun) -> None:
        self.run = run
        label = gr.Label(label="Classifier", elem_id="classes")
        about = gr.Markdown()
        with gr.Row():
            image = gr.Image(label="Image", type="pil", format="png", interactive=False, height=HEIGHT, elem_id="image",
                             buttons=["fullscreen"])  # fmt: skip
            cam = gr.Image(label="Grad-CAM", type="pil", format="png", interactive=False, height=HEIGHT, elem_id="cam",
                           buttons=["fullscreen"])  # fmt: skip
        self.outputs: list[Any] = [label, about, image, cam]

    def explain(self, opened: Opened | None) -> list[Any]:
        """Values for `outputs`; a volume shows the slice where the map is strongest."""
        if opened is None:
            return [gr.skip()] * len(self.outputs)
        probabilities = self.run.classify(opened)
        try:
            cam = self.run.saliency(opened, MAP)
        except UnsuitableError as error:
            middle = opened.pixels.shape[1] // 2
            return [probabilities, str(error), picture(window(opened.pixels[:, middle], opened.limits)), None]
        number = int(cam.max((1, 2)).argmax())
        image = window(opened.pixels[:, number], opened.limits)
        about = f"Slice {number} of {len(cam)}, where Grad-CAM is strongest." if len(cam) > 1 else ""
        return [probabilities, about, picture(image), overlay(image, cam[number], float(cam.max()), OPACITY)]
