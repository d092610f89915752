"""The page that a study of regions writes."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from small_study import Brightness, dataset, measured

from cfxai.data.dataset import Dataset
from cfxai.region_study.analysis import analyse
from cfxai.region_study.page import json_for_script, write_page
from cfxai.region_study.questions import Questions
from cfxai.region_study.sample import usable_regions


class Reader(HTMLParser):
    """What a page refers to, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]


def test_the_page_holds_everything_and_asks_nothing_of_a_network(tmp_path: Path) -> None:
    found = measured(show=[0, 2, 3])
    sections = list(analyse(usable_regions(found, "share")[0], Questions(draws=100)))
    write_page(
        tmp_path / "index.html",
        "Study <b>",
        found,
        sections,
        facts={"run": "x"},
        notes=["careful & slow"],
        score="share",
    )
    text = (tmp_path / "index.html").read_text()
    page = Reader(text)
    assert not page.links
    assert {"input", "select", "svg"} <= set(page.tags)
    assert "Study &lt;b&gt;" in text
    assert "careful &amp; slow" in text
    assert all(escape(s.sentences[0]) in text for s in sections)
    cases = json.loads(re.search(r"const cases = (.*);", text).group(1))  # type: ignore[union-attr]
    assert [case["name"].split(" – ")[0] for case in cases] == ["image <2>", "image <3>", "image <0>"], "abnormal first"
    assert dict(cases[0]["shares"]["brightness"])["upper left quadrant"] == pytest.approx(
        found.scores["share"][2, 0, 0], abs=1e-4
    )
    assert cases[0]["maps"]["inverse"].startswith("data:image/png;base64,")


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_runs_the_page(tmp_path: Path) -> None:
    found = measured(show=[0, 2, 3])
    write_page(tmp_path / "index.html", "t", found, [], facts={}, notes=[], score="share")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/index.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout  # type: ignore[arg-type]
    assert f"<td>upper left quadrant</td><td>{100 * found.scores['share'][2, 0, 0]:.1f} %</td>" in dom
    assert dom.count("<option") == 3 + 2
    assert 'id="map" alt="map" src="data:image/png' in dom


def test_names_cannot_end_the_script() -> None:
    assert "</script>" not in json_for_script(["</script><script>alert(1)</script>"])


def test_volumes_are_shown_by_a_slice(tmp_path: Path) -> None:
    data = dataset(8)
    images = np.repeat(data.images[:, :, None], 6, 2)
    volumes = Dataset(images, data.labels, None, None, data.ids, data.groups, data.origin)
    found = measured(volumes, {"b": Brightness()}, show=[2])
    write_page(tmp_path / "i.html", "t", found, [], facts={}, notes=[], score="share")
    assert (tmp_path / "i.html").stat().st_size > 5000
