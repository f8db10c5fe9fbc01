# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium without a screen, spoken to over its debugging pipe: no library, no port."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Page", "browser"]

_NAMES = ("chromium", "chromium-headless-shell", "chromium-browser")
_ANSWER_S = 60.0


class Page:
    """A page in a browser of its own.

    Attributes:
        complaints: errors of its scripts and of what it loads, as the console shows them.
    """

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = into, out
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """Ask the browser; its answer."""
        number = next(self._numbers)
        told: dict[str, Any] = {"id": number, "method": method, "params": words}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._into, json.dumps(told).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                found: dict[str, Any] = message["result"]
                return found

    def _next(self) -> dict[str, Any]:
        end_s = time.monotonic() + _ANSWER_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0, end_s - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._out, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._hear(message.get("method", ""), message.get("params", {}))
        return message

    def _hear(self, method: str, words: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(words["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and words["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(words["args"]))
        elif method == "Log.entryAdded" and words["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(words["entry"]))

    def open(self, url: str) -> None:
        """Go there."""
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 60) -> Any:
        """The value of an expression, once it is true."""
        end_s = time.monotonic() + timeout_s
        while not (found := self.ask(expression)):
            assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {expression}"
            time.sleep(0.1)
        return found

    def press(self, key: str) -> None:
        """A key, as by hand."""
        words: dict[str, Any] = {"key": key, "code": key}
        if key == "Tab":
            words["windowsVirtualKeyCode"] = 9
        if key == "Enter":
            words |= {"windowsVirtualKeyCode": 13, "text": "\r"}
        self.call("Input.dispatchKeyEvent", type="keyDown", **words)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def look(self, *, scheme: str, width: int, height: int) -> None:
        """Have a colour scheme, "dark" or "light", and a size."""
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[scheme_feature])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def picture(self, path: Path) -> None:
        """Write a PNG of all of it."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page, in a browser with a profile of its own; skips where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium; remedy: install Debian's chromium (HARP_CONTAINERS=1 does)")
    profile = tempfile.mkdtemp(prefix="harp-cr-")
    theirs_in, into = os.pipe()
    out, theirs_out = os.pipe()

    def wire() -> None:
        # Its ends are 3 and 4; ours may have these numbers already.
        high_in = os.dup2(theirs_in, 63, inheritable=False)
        high_out = os.dup2(theirs_out, 64, inheritable=False)
        os.dup2(high_in, 3)
        os.dup2(high_out, 4)

    child = subprocess.Popen(
        [
            program,
            *("--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--disable-background-networking", "--no-sandbox"),  # it shows our own page alone
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=wire,  # noqa: PLW1509 - nothing else runs here
        close_fds=False,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(into, out)
    finally:
        os.close(into)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        os.close(out)
        shutil.rmtree(profile, ignore_errors=True)
