"""A real Chromium without a screen, told what to do over a pipe (the DevTools protocol)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds for an answer of the browser, and for a page to become what a test waits for.
PATIENCE = 20.0

_FLAGS = [
    *["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"],
    *["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"],
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    *["--disable-sync", "--hide-scrollbars", "--mute-audio", "--no-default-browser-check"],
]


def find() -> str | None:
    """The program: of the cache (``scripts/unpack chromium``), or one that is installed."""
    cache = Path(os.environ.get("ROUNDED_PBX_CACHE", ".cache"))
    unpacked = cache / "chromium" / "chromium-headless-shell"
    if unpacked.is_file():
        return str(unpacked)
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def _high(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


class Browser:
    """The browser's process; one pipe carries the commands and events of all its pages."""

    def __init__(self, program: str, directory: Path) -> None:
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # It reads from 3 and writes to 4, which a shell can say. Neither may be one of ours.
        theirs_in, theirs_out = (_high(end) for end in (theirs_in, theirs_out))
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        with (directory / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", redirect, "chromium", program, *_FLAGS, *sandbox,
                 f"--user-data-dir={directory / 'profile'}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs_in, theirs_out),
                env={**os.environ, "HOME": str(directory), "XDG_CACHE_HOME": str(directory)},
                start_new_session=True,
            )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._buffer, self._number = ours_in, ours_out, b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def command(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while self._number not in self._answers:
            assert time.monotonic() < end, f"Chromium does not answer to {method}"
            self.listen(0.2)
        answer = self._answers.pop(self._number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, seconds: float) -> None:
        """Take in what the browser says within so many seconds, if it says anything."""
        if not select.select([self._in], [], [], seconds)[0]:
            return
        data = os.read(self._in, 1 << 20)
        assert data, "Chromium has ended"
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].heard(message["method"], message["params"])

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """A page in a context of its own: no cookie, no password, no permission but its own."""
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)
        target_id = target["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target_id, flatten=True)
        page = Page(self, attached["sessionId"], context)
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.command(f"{domain}.enable")
        try:
            yield page
        finally:
            del self._pages[page.session]
            self.command("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.command("Browser.close")
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._in)


@dataclass
class Page:
    """One page: what it asked for, what it complained of, and what stands in it."""

    browser: Browser
    session: str
    context: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loads: int = 0

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.command(method, self.session, **params)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loads += 1
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {params['message']}")

    def open(self, url: str) -> None:
        """Load a page, to the end."""
        loads = self.loads
        answer = self.command("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.until(lambda: self.loads > loads, f"{url} to be loaded")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: Callable[[], object], what: str, within: float = PATIENCE) -> None:
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, f"waited {within} s for {what}"
            self.browser.listen(0.05)

    def texts(self, selector: str) -> list[str]:
        """The text of each element, as it stands in the document."""
        script = (
            f"Array.from(document.querySelectorAll({json.dumps(selector)}), e => e.textContent)"
        )
        found: list[str] = self.run(script)
        return found

    def has(self, selector: str, text: str) -> bool:
        return any(text in each for each in self.texts(selector))

    def looks(self, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window, and whether its user wants it dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path) -> None:
        """What is seen, as a PNG."""
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium(program: str, directory: Path) -> Iterator[Browser]:
    browser = Browser(program, directory)
    try:
        yield browser
    finally:
        browser.close()
