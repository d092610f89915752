"""The page: an image on the left; its counterfactual, its classification and a reader study in tabs on the right."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from cfxai.app.classification_tab import ClassificationTab
from cfxai.app.counterfactual_tab import CounterfactualTab
from cfxai.app.examples import thumbnail
from cfxai.app.messages import in_a_sentence
from cfxai.app.reader_study import ReaderStudy
from cfxai.app.study_tab import study_tab
from cfxai.app.uploads import MOST_MEGABYTES, receive
from cfxai.explaining.opening import Opened
from cfxai.loaded import LoadedRun

FORGET_AFTER = 3600
"""Seconds after which a visitor's image leaves the memory, and files made for downloads the disk."""
WAITING = 64
"""Images that may wait in the queue; one is explained at a time."""
WARNING = "For research. A counterfactual shows what moves this classifier; it is no diagnosis."
CSS = """
.gradio-container { max-width: 82rem !important; margin: auto; }
footer { display: none !important; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
"""
THEME = gr.themes.Default(
    primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)  # the system's fonts: none is fetched


def build_page(run: LoadedRun, examples: Sequence[Opened], study: ReaderStudy | None = None) -> gr.Blocks:
    """The page of a run; one that has a classifier alone has no counterfactuals."""
    title = f"cfxai: {run.run.directory.resolve().name}"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(FORGET_AFTER, FORGET_AFTER)) as page:
        gr.Markdown(f"### {title}\n{WARNING}")
        opened = gr.State(None, time_to_live=FORGET_AFTER)
        with gr.Row():
            with gr.Column(scale=1, min_width=260) as inputs:
                upload = gr.File(label=f"Your image, at most {MOST_MEGABYTES} MB", height=170, elem_id="upload")
                gr.Markdown(
                    "PNG, JPEG, TIFF, DICOM or NIfTI" + ("; or one of the run's test images:" if examples else ".")
                )
                gallery = gr.Gallery(
                    [thumbnail(example) for example in examples],
                    show_label=False, format="png", columns=3, height=340, object_fit="cover", buttons=[],
                    allow_preview=False, visible=bool(examples), interactive=False, elem_id="examples",
                )  # fmt: skip
                notes = gr.Markdown(elem_id="notes")
            with gr.Column(scale=4), gr.Tabs():
                tabs: list[CounterfactualTab | ClassificationTab] = []
                if run.method is not None:
                    with gr.Tab("Counterfactual") as tab:
                        tabs.append(CounterfactualTab(run))
                    tab.select(_show, outputs=inputs)
                with gr.Tab("Classification") as tab:
                    tabs.append(ClassificationTab(run))
                tab.select(_show, outputs=inputs)
                if study is not None:
                    with gr.Tab("Reader study") as tab:
                        study_tab(study)
                    tab.select(_hide, outputs=inputs)

        def take(file: str) -> list[Any]:
            image = receive(run, file)
            return [image, None, " ".join(image.notes)]

        def pick(event: gr.SelectData) -> list[Any]:
            return [examples[event.index], None, ""]

        chosen = [opened, upload, notes]
        slow: dict[str, Any] = {"concurrency_id": "explain", "concurrency_limit": 1, "api_visibility": "private"}
        uploaded = upload.upload(in_a_sentence(take), upload, chosen, **slow)
        uploaded.failure(lambda: None, outputs=upload, api_visibility="private")
        for step in (uploaded, gallery.select(pick, None, chosen, **slow)):
            for one in tabs:
                step = step.success(in_a_sentence(one.explain), [opened, *one.inputs], one.outputs, **slow)
    return page.queue(max_size=WAITING, default_concurrency_limit=4)


def _show() -> Any:
    return gr.update(visible=True)


def _hide() -> Any:
    return gr.update(visible=False)
