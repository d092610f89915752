"""A real headless Chromium, driven by the DevTools protocol over a pipe."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *("--no-first-run", "--no-proxy-server", "--disable-background-networking", "--window-size=1400,1100"),
)


class Chromium:
    """One page; use it as a context. `profile` is a folder of its own."""

    def __init__(self, profile: Path) -> None:
        self.profile, self.number, self.buffer = profile, 0, b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Chromium":
        assert PROGRAM is not None
        theirs_in, self.ours_out = _pipe()
        self.ours_in, theirs_out = _pipe()
        become = (
            f"import os, sys; os.dup2({theirs_in}, 3); os.dup2({theirs_out}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", become, PROGRAM, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours_in)
        os.close(self.ours_out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that arrive meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.ours_out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 30
        while True:
            reply = self._next(until)
            if reply.get("id") == self.number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]
            self.events.append(reply)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.ours_in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            content = os.read(self.ours_in, 2**20)
            assert content, "Chromium has ended"
            self.buffer += content
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> Any:
        """The value of JavaScript once it is truthy."""
        until = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < until, f"still not so: {expression}\n{self.text()[-1500:]}"
            time.sleep(0.05)
        return value

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def text(self) -> str:
        """What a reader sees."""
        return self.evaluate("document.body.innerText")

    def upload(self, selector: str, file: Path) -> None:
        """Puts a file into an `<input type=file>`."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def click(self, element: str) -> None:
        """Presses the mouse on the middle of what a JavaScript expression finds, once it is there and lies still."""
        where = (
            f"(() => {{ const found = {element}; if (!found) return null; found.scrollIntoView({{block: 'center'}});"
            " const box = found.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;"
            " const top = document.elementFromPoint(x, y);"
            " return found.contains(top) || top?.contains(found) ? [x, y] : null; })()"
        )
        last, place = None, self.wait(where)
        while place is None or place != last:
            time.sleep(0.15)
            last, place = place, self.wait(where)
        x, y = place
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, value: str | float) -> None:
        """Gives an input a value the way a hand does: with the events that follow."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)});"
            f" Object.getOwnPropertyDescriptor(box.constructor.prototype, 'value').set.call(box, {json.dumps(value)});"
            " for (const kind of ['input', 'change', 'pointerup']) box.dispatchEvent(new Event(kind, {bubbles: true}));"
            " })()"
        )

    def requests(self) -> list[str]:
        """Addresses that were asked for so far."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def _pipe() -> tuple[int, int]:
    """Both ends above 9: Chromium wants its own at 3 and 4."""
    low = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return read, write
