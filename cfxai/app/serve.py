"""serve(run): the page on 127.0.0.1, for this computer only, and nothing from anywhere else in it."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cfxai.app.examples import examples_of
from cfxai.app.page import CSS, THEME, build_page
from cfxai.app.reader_study import ReaderStudy
from cfxai.app.trials import trials_of
from cfxai.app.uploads import MOST_MEGABYTES
from cfxai.errors import ConfigError
from cfxai.loaded import load_run

HERE = "127.0.0.1"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:;"
    " connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""What the browser may load: nothing but from this server."""
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-store"}
HOSTS = Middleware(TrustedHostMiddleware, allowed_hosts=[HERE, "localhost"])
"""Other pages in the same browser cannot reach this one under a name of their own."""


class Confined:
    """Adds `HEADERS` to every answer, so that the browser asks nobody else and keeps no image."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, sent)


def serve(path: Path, port: int | None = None, ratings: Path | None = None) -> None:
    """Serves the page of a run until it is interrupted; then every file that it made is gone, but for the ratings.

    Args:
        path: the run. port: None = 7860, or the next that is free. ratings: CSV of a reader study; None = no study.

    Raises:
        ConfigError: not a run, or the port is taken.
        DataError: a reader study without the run's test images.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with private_folder():
        run = load_run(path)
        study = None if ratings is None else ReaderStudy(trials_of(run), ratings)
        with served(build_page(run, examples_of(run), study), port) as (page, address):
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            page.block_thread()


@contextmanager
def served(page: gr.Blocks, port: int | None = None) -> Iterator[tuple[gr.Blocks, str]]:
    """The page and its address, for as long as the context lasts.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=HERE, server_port=port, share=False, quiet=True, inbrowser=False, prevent_thread_lock=True,
            max_file_size=f"{MOST_MEGABYTES}mb", css=CSS, theme=THEME, footer_links=[], pwa=False, mcp_server=False,
            enable_monitoring=False, ssr_mode=False, app_kwargs={"middleware": [Middleware(Confined), HOSTS]},
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"--port {port}: is taken; name another, or none.") from error
    try:
        yield page, address
    finally:
        page.close(verbose=False)


@contextmanager
def private_folder() -> Iterator[None]:
    """A folder that no other user can read, for uploads and pictures; removed at the end, also after SIGTERM."""
    before, ended = tempfile.tempdir, signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="cfxai-app-") as folder:
        tempfile.tempdir = folder
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            signal.signal(signal.SIGTERM, ended)
