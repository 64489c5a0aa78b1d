"""A headless Chromium, driven over a pipe by its DevTools protocol: no driver, no port, no package."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Seconds for an answer.
PATIENCE_S = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """The browser, if one is installed; `TILEWRIGHT_CHROMIUM` names another."""
    named = os.environ.get("TILEWRIGHT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


def _pipe(theirs: int) -> tuple[int, int]:
    """A pipe whose end for the browser is out of the way of the descriptors 3 and 4."""
    ends = list(os.pipe())
    low, ends[theirs] = ends[theirs], fcntl.fcntl(ends[theirs], fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(low)
    return ends[0], ends[1]


class Chromium:
    """One browser with one page at a time."""

    def __init__(self, command: str, profile: Path) -> None:
        ours_in, theirs_out = _pipe(theirs=1)
        theirs_in, ours_out = _pipe(theirs=0)
        arguments = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", "--hide-scrollbars", f"--user-data-dir={profile}",
        ]  # fmt: skip
        # The protocol is spoken over the descriptors 3 and 4.
        script = f'exec 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, command, *arguments],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        os.set_blocking(ours_in, False)
        self._buffer = b""
        self._count = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Open a file at a width, in CSS pixels, without a network; its events are in `events`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self._until("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        import base64

        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors and warnings that the page gave: console, exceptions, the browser's log."""
        found = []
        for event in self.events:
            told = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(str(told["args"]))
            elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(str(told["entry"]["text"]))
        return found

    def requests(self) -> Sequence[str]:
        """What the page asked for."""
        sent = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [str(event["params"]["request"]["url"]) for event in sent]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._read(lambda one: one.get("id") == self._count)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, event: str) -> None:
        if not any(one["method"] == event for one in self.events):
            self._read(lambda one: one.get("method") == event)

    def _read(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            head, separator, rest = self._buffer.partition(b"\0")
            if separator:
                self._buffer = rest
                message: dict[str, Any] = json.loads(head)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
                continue
            try:
                more = os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not more:
                raise AssertionError("the browser is gone")
            self._buffer += more
        raise AssertionError("the browser does not answer")
