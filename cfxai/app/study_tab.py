"""The tab of a blinded reader study: one picture after the other, real or not; the results once all are rated."""

import time
from typing import Any

import gradio as gr

from cfxai.app.messages import in_a_sentence
from cfxai.app.pictures import picture
from cfxai.app.reader_study import MADE, REAL, ReaderStudy, Trial
from cfxai.errors import DataError

ABOUT = (
    "Some of these pictures are real images of the normal class; the others were abnormal, and the method made them"
    " normal. Which is it? The results are shown when you have rated all."
)
ANSWERS = [("real", REAL), ("made by the method", MADE)]
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 1}


def study_tab(study: ReaderStudy) -> None:
    """Builds the tab where it is called."""
    gr.Markdown(ABOUT)
    asked = gr.State(None)  # reader, trial, and when it was shown
    with gr.Row():
        code = gr.Textbox(label="Your code, not your name", max_length=32, scale=3, elem_id="reader")
        start = gr.Button("Begin, or go on", scale=1, elem_id="begin")
    progress = gr.Markdown(elem_id="progress")
    with gr.Row(visible=False) as questions:
        shown = gr.Image(label="Picture", type="pil", format="png", interactive=False, height=460, buttons=[],
                         elem_id="trial")  # fmt: skip
        with gr.Column():
            answer = gr.Radio(ANSWERS, label="This picture is", elem_id="answer")
            confidence = gr.Slider(1, 5, 3, step=1, label="How sure are you? 1 = a guess, 5 = certain")
            submit = gr.Button("Next", variant="primary", elem_id="submit")
    results = gr.Dataframe(label="Results", visible=False, interactive=False, elem_id="summary")
    outputs = [asked, progress, questions, shown, answer, confidence, results]

    def ask(reader: str) -> list[Any]:
        left = study.left(reader)
        if not left:
            table = gr.update(value=study.summary(), visible=True)
            return [None, "You have rated all pictures. Thank you.", gr.update(visible=False), None, None, 3, table]
        done = len(study.trials) - len(left)
        text = f"Picture {done + 1} of {len(study.trials)}"
        hidden = gr.update(value=None, visible=False)
        drawn, now = picture(left[0].picture), time.monotonic()
        return [(reader, left[0], now), text, gr.update(visible=True), drawn, None, 3, hidden]

    def begin(reader: str) -> list[Any]:
        if not reader.strip():
            raise DataError("Give yourself a code first, so that your ratings can be told from those of others.")
        return ask(reader.strip())

    def rate(state: tuple[str, Trial, float] | None, chosen: str | None, sure: float) -> list[Any]:
        if state is None:
            raise DataError("Press Begin first.")
        if chosen is None:
            raise DataError("Choose an answer first.")
        reader, trial, since = state
        study.rate(reader, trial, chosen, int(sure), time.monotonic() - since)
        return ask(reader)

    start.click(in_a_sentence(begin), code, outputs, **PRIVATE)
    submit.click(in_a_sentence(rate), [asked, answer, confidence], outputs, **PRIVATE)
