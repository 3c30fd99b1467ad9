"""Headless Chromium, spoken to over its debugging pipe: no driver, no port, no other package."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # its sandbox refuses root, which tests in a container are
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
SECONDS = 60.0
MEASURE = """
Array.from(document.querySelectorAll(".plot"), plot => {
  const size = plot.querySelector(".main-svg").getBoundingClientRect();
  const marks = Array.from(plot.querySelectorAll(".point path, .points path, .js-line, .hm image"));
  const shown = marks.filter(each => {
    const box = each.getBoundingClientRect();
    return box.width + box.height > 0;
  });
  return [plot.id, size.width, size.height, shown.length];
})
"""
OVERFLOWING = """
Array.from(document.querySelectorAll(".panel, .card"))
  .filter(each => each.scrollWidth > each.clientWidth).map(each => each.outerHTML.slice(0, 200))
"""


def find_chromium() -> str | None:
    """The browser's executable, where one is installed."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab. Collects what the page says on its console and which addresses it asks for."""

    def __init__(self, executable: str, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._executable = executable
        self._profile = profile
        self._number = 0
        self._session: str | None = None
        self._rest = b""
        self._events: deque[dict[str, Any]] = deque()

    def __enter__(self) -> "Browser":
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4: keep ours clear of both
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def place() -> None:
            for end, wanted in zip(ends, (3, 4), strict=True):
                os.dup2(end, wanted)

        self._process = subprocess.Popen(
            [self._executable, *FLAGS, f"--user-data-dir={self._profile}"],
            preexec_fn=place,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*ends, to_browser, from_browser):
            os.close(end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def size(self, width: int, height: int) -> None:
        """Set the size of the window's inside [px]."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, page: Path) -> None:
        """Show a page and wait until it has loaded and its scripts have run."""
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        end = time.monotonic() + SECONDS
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message(end))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise's, when it is done."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            message = self._message(end)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._events.append(message)

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(end - time.monotonic(), 0.0))[0]:
                raise TimeoutError(f"Chromium did not answer within {SECONDS:g} s")
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise EOFError("Chromium ended")
            self._rest += piece
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, content: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning"):
            self.errors.append(str(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.errors.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
