"""The page in a real browser, what it asks of the network, and the blinded reader study."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from zipfile import ZipFile

import gradio as gr
import httpx
import numpy as np
import pandas as pd
import pytest
from chromium import PROGRAM, Chromium
from PIL import Image as Pil
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score
from test_explaining import spot, write_dicom
from untrained_run import Dim, Gradual, legible, untrained_run

from cfxai.app.counterfactual_tab import CounterfactualTab
from cfxai.app.examples import examples_of
from cfxai.app.page import build_page
from cfxai.app.reader_study import MADE, REAL, ReaderStudy, Trial, kappa
from cfxai.app.serve import private_folder, served
from cfxai.app.trials import trials_of
from cfxai.app.uploads import receive
from cfxai.cli.app import app_command
from cfxai.errors import ConfigError, DataError
from cfxai.loaded import LoadedRun
from cfxai.protocols import NORMAL

browser = pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
SECRETS = ("Musterfrau", "SECRET", "ACC-0815", "19700101")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return legible(untrained_run(tmp_path_factory.mktemp("app")), Gradual)


@pytest.fixture(scope="module")
def address(run: LoadedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ratings = tmp_path_factory.mktemp("study") / "ratings.csv"
    with private_folder():
        study = ReaderStudy(trials_of(run, each=2), ratings)
        with served(build_page(run, examples_of(run), study)) as (_, at):
            yield at


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as chromium:
        chromium.open(address)
        pictures = "[...document.querySelectorAll('#examples img')]"
        chromium.wait(f"{pictures}.length > 2 && {pictures}.every(picture => picture.naturalWidth)", 60)
        yield chromium


def verdict(page: Chromium) -> str:
    return page.evaluate("document.querySelector('#verdict').innerText")


def mask_share(page: Chromium) -> float:
    return float(page.wait("(document.querySelector('#verdict').innerText.match(/mask is ([0-9.]+) %/) || [])[1]"))


@browser
def test_upload_probabilities_and_threshold(page: Chromium, address: str, tmp_path: Path) -> None:
    pixels = np.full((64, 64), -120)
    pixels[20:30, 20:30], pixels[40:50, 40:50] = 200, 100  # +0.8 and +0.3 of the window: |x - x_cf| 0.4 and 0.15
    page.upload("#upload input[type=file]", write_dicom(tmp_path / "slice.dcm", pixels, spacing=3.0))
    page.wait("document.querySelector('#after')?.innerText.includes('98%')")
    for box, expected in (("before", "abnormal"), ("after", "normal")):
        shown = f"document.querySelector('#{box} [data-testid=label-output-value]')?.innerText.trim()"
        page.wait(f"{shown} === '{expected}'")
    assert "92%" in page.evaluate("document.querySelector('#before').innerText")
    page.wait("document.querySelectorAll('#slider img').length >= 2")
    first, picture = mask_share(page), page.evaluate("document.querySelector('#difference img').src")
    page.type("#threshold input[type=range]", 0.1)
    page.wait(f"!document.querySelector('#verdict').innerText.includes('{first:.2f} %')")
    assert mask_share(page) > 1.5 * first, "the fainter square is in the mask"
    page.wait(f"document.querySelector('#difference img').src !== {json.dumps(picture)}")
    page.click("[...document.querySelectorAll('button[role=tab]')].find(tab => tab.innerText == 'Classification')")
    page.wait("document.querySelector('#classes')?.innerText.includes('92%')")
    assert not any(secret in page.text() for secret in SECRETS)
    assert "slice" not in page.evaluate("document.querySelector('#upload').innerText")
    held = [path for path in Path(gettempdir()).rglob("*") if path.is_file() and path.suffix == ".dcm"]
    assert not held, "the upload is gone"
    strange = [url for url in page.requests() if not url.startswith((address, "data:", "blob:"))]
    assert strange == ["about:blank"] * len(strange)


@browser
def test_an_example_a_map_and_the_download(page: Chromium) -> None:
    page.click("document.querySelectorAll('#examples button')[0]")
    page.wait("document.querySelector('#after')?.innerText.includes('%')")
    page.click("document.querySelector('#attributor input')")
    page.click("[...document.querySelectorAll('#attributor li, [role=option]')]"
               ".find(option => option.innerText.replace('✓', '').trim() == 'gradient')")  # fmt: skip
    page.wait("!!document.querySelector('#saliency img')")
    page.click("document.querySelector('#save')")
    link = page.wait("document.querySelector('#results a')?.href")
    assert httpx.get(link).content[:2] == b"PK"


@browser
def test_a_slider_shows_the_image_at_any_severity(page: Chromium, run: LoadedRun, tmp_path: Path) -> None:
    pixels = np.full((64, 64), -120)
    pixels[20:30, 20:30] = 200  # +0.8 of the window
    page.upload("#upload input[type=file]", write_dicom(tmp_path / "slice.dcm", pixels, spacing=3.0))
    page.wait("document.querySelector('#severity input[type=range]')?.value == 0.75")  # the nearest of nine levels
    assert "the image is at 0.80" in page.text()
    assert not page.evaluate("document.querySelector('#at-severity')")
    method: Any = run.method
    before, shown = method.sweeps, ""
    for level, called, probability in ((0.875, "abnormal", "95%"), (0.25, "normal", "88%")):
        page.type("#severity input[type=range]", level)
        said = "document.querySelector('#at-severity-label')?.innerText"
        page.wait(f"{said}?.includes('{probability}') && {said}.includes('{called}')")
        there = "document.querySelector('#at-severity img')?.src"
        shown = page.wait(f"{there} !== {json.dumps(shown)} && {there}")
    assert method.sweeps == before + 1, "rendered once for all levels"
    page.click("document.querySelector('#save')")
    link = page.wait("document.querySelector('#results a')?.href")
    names = ZipFile(BytesIO(httpx.get(link).content)).namelist()
    assert {"image-counterfactual.png", "image-sweep.png", "image-sweep.gif"} <= set(names)
    page.click("document.querySelectorAll('#examples button')[0]")
    page.wait("!document.querySelector('#at-severity')")


def test_without_a_scale_of_severity_there_is_no_slider(run: LoadedRun) -> None:
    opened = run.open(np.full((32, 32), 100.0))
    for method, visible in ((Gradual, True), (Dim, False)):
        with gr.Blocks():
            tab = CounterfactualTab(legible(run.run.directory, method))
        values = tab.explain(opened, 0.25, 0.7, "none")
        slider = next(i for i, part in enumerate(tab.outputs) if part.elem_id == "severity")
        assert not tab.outputs[slider].visible
        assert values[slider]["visible"] is visible


@browser
def test_bad_uploads_are_told_and_forgotten(page: Chromium, tmp_path: Path) -> None:
    (tmp_path / "patient-miller.png").write_text("hello")
    page.upload("#upload input[type=file]", tmp_path / "patient-miller.png")
    page.wait("document.body.innerText.includes('damaged or not what its name says')")
    page.wait("!document.querySelector('#upload').innerText.includes('miller')")
    assert "miller" not in page.text()


@browser
def test_a_reader_study_in_the_browser(page: Chromium) -> None:
    page.click("[...document.querySelectorAll('button[role=tab]')].find(tab => tab.innerText == 'Reader study')")
    page.type("#reader input, #reader textarea", "R1")
    page.click("document.querySelector('#begin')")
    for number in range(1, 5):
        page.wait(f"document.querySelector('#progress').innerText.includes('Picture {number} of 4')")
        page.wait("!!document.querySelector('#trial img') && !document.querySelector('#answer input:checked')")
        page.click("document.querySelectorAll('#answer input')[0]")
        page.wait("!!document.querySelector('#answer input:checked')")
        page.click("document.querySelector('#submit')")
    page.wait("document.querySelector('#progress').innerText.includes('Thank')")
    page.wait("document.querySelector('#summary')?.innerText.includes('0.50')")


# The server


def test_it_answers_this_computer_only_and_allows_no_other(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    answer = httpx.get(address)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "http" not in policy
    assert "connect-src 'self'" in policy
    assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400


def test_fifty_uploads_at_once_wait_in_line(run: LoadedRun, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    honest = LoadedRun.open

    def counting(self: LoadedRun, *given: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.005)
        try:
            return honest(self, *given)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(LoadedRun, "open", counting)
    settings = httpx.get(f"{address}config").json()
    upload = next(part["id"] for part in settings["components"] if part["props"].get("elem_id") == "upload")
    event = next(one["id"] for one in settings["dependencies"] if [upload, "upload"] in one["targets"])
    content = Path(gettempdir(), "x.png")
    Pil.fromarray(spot(32, 32, slice(4, 9), slice(4, 9))).save(content)
    picture = content.read_bytes()

    def send(number: int) -> str:
        with httpx.Client(base_url=address, timeout=60) as client:
            path = client.post("gradio_api/upload", files={"files": (f"{number}.png", picture)}).json()[0]
            data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
            session = f"visitor{number}"
            client.post("gradio_api/queue/join", json={"data": data, "fn_index": event, "session_hash": session})
            with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
                for line in stream.iter_lines():
                    if "process_completed" in line:
                        return line
        return ""

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert sum('"success":true' in answer.replace(" ", "") for answer in answers) == 50
    assert most == 1


def test_uploads_are_removed_whatever_comes_of_them(run: LoadedRun, tmp_path: Path) -> None:
    good, bad, large, other = (tmp_path / name for name in ("a.png", "b.png", "c.png", "d.npy"))
    Pil.fromarray(spot(32, 32, slice(4, 9), slice(4, 9))).save(good)
    bad.write_text("hello")
    large.write_bytes(bytes(21 * 2**20))
    np.save(other, np.zeros((32, 32)))
    assert receive(run, good).name == "The image"
    for path, said in ((bad, "damaged"), (large, "larger than 20 MB"), (other, "must be a PNG, JPEG")):
        with pytest.raises(DataError, match=said) as caught:
            receive(run, path)
        assert path.name not in str(caught.value)
    assert not [path for path in (good, bad, large, other) if path.exists()]


@pytest.mark.parametrize(
    ("words", "said"),
    [("", "name a run"), ("-cp nowhere", "no such run"), ("-cp RUN --port 80", "--port 80: must be between 1024")],
)
def test_a_wrong_command_is_one_sentence(run: LoadedRun, words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app_command(words.replace("RUN", str(run.run.directory)).split())


# The reader study


def some_trials(count: int = 8) -> list[Trial]:
    return [Trial(f"image-{i}", REAL if i % 2 else MADE, np.zeros((4, 4))) for i in range(count)]


def test_trials_are_half_real_and_half_made(run: LoadedRun) -> None:
    dataset, trials = run.data.split("test"), trials_of(run, each=3)
    by_name = dict(zip(dataset.ids, range(len(dataset)), strict=True))
    assert [trial.shown for trial in trials] == [REAL] * 3 + [MADE] * 3
    for trial in trials:
        image, label = dataset.images[by_name[trial.image]][0], dataset.labels[by_name[trial.image]]
        assert (label == NORMAL) == (trial.shown == REAL)
        expected = image if trial.shown == REAL else image.clip(max=0)
        assert trial.picture == pytest.approx((expected + 1) / 2)


def test_ratings_are_kept_and_a_reader_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "new/ratings.csv"
    study = ReaderStudy(some_trials(), file)
    order = [trial.image for trial in study.left("A")]
    assert sorted(order) == sorted(trial.image for trial in some_trials())
    assert order != [trial.image for trial in study.left("B")]
    first = study.left("A")[0]
    study.rate("A", first, REAL, 4, 1.26)
    study.rate("A", first, MADE, 4, 9.9)  # a second click
    again = ReaderStudy(some_trials(), file)
    assert [trial.image for trial in again.left("A")] == order[1:]
    assert len(again.left("B")) == 8
    table = pd.read_csv(file)
    assert list(table.columns) == ["time", "reader", "image", "shown", "answer", "confidence", "seconds"]
    assert table.loc[0, ["reader", "image", "answer", "seconds"]].tolist() == ["A", first.image, REAL, 1.3]
    with pytest.raises(DataError):
        study.rate("A", study.left("A")[0], "perhaps", 3, 1.0)


def test_readers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def rate_all(reader: str) -> None:
        study = ReaderStudy(some_trials(), tmp_path / "ratings.csv")
        for trial in study.left(reader):
            study.rate(reader, trial, REAL, 3, 1.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rate_all, "ABCD"))
    assert len(pd.read_csv(tmp_path / "ratings.csv")) == 32


def test_another_table_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("name,age\nx,3\n")
    with pytest.raises(ConfigError, match="has other columns than ratings"):
        ReaderStudy(some_trials(), tmp_path / "patients.csv")


def test_summary_against_formulas(tmp_path: Path) -> None:
    study = ReaderStudy(some_trials(20), tmp_path / "ratings.csv")
    for number, trial in enumerate(study.trials):
        study.rate("A", trial, trial.shown if number < 15 else REAL, 3, 1.0)
        study.rate("B", trial, REAL, 3, 1.0)
    summary = study.summary().set_index("reader")
    right = 15 + sum(trial.shown == REAL for trial in study.trials[15:])
    p, z = right / 20, norm.ppf(0.975)
    centre, half = (p + z**2 / 40) / (1 + z**2 / 20), z / (1 + z**2 / 20) * np.sqrt(p * (1 - p) / 20 + z**2 / 1600)
    assert summary.loc["A", "accuracy"] == f"{p:.2f}"
    assert summary.loc["A", "accuracy 95 %"] == f"{centre - half:.2f} to {centre + half:.2f}"
    answers = study.table().pivot(index="image", columns="reader", values="answer")
    shown = study.table().drop_duplicates("image").set_index("image")["shown"]
    assert summary.loc["A", "kappa"] == f"{cohen_kappa_score(answers['A'], shown[answers.index]):.2f}"
    low, high = map(float, summary.loc["A", "kappa 95 %"].split(" to "))
    assert low < float(summary.loc["A", "kappa"]) < high <= 1
    assert summary.loc["B", "kappa"] == "0.00"
    assert summary.loc["A and B", "images"] == 20


def test_kappa_is_cohens() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 50, 30)) < 0.4
    expected = [cohen_kappa_score(x, y) for x, y in zip(a, b, strict=True)]
    assert kappa(a, b) == pytest.approx(expected)
    assert np.isnan(kappa(np.ones(3, bool), np.ones(3, bool)))
