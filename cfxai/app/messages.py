"""A user's mistake as a message on the page."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from cfxai.errors import CfxError

SECONDS = 20


def in_a_sentence(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, whose `CfxError`s the visitor is shown."""

    @wraps(work)
    def told(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except CfxError as error:
            raise gr.Error(str(error), duration=SECONDS, print_exception=False) from error

    return told
