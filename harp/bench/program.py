# SPDX-License-Identifier: Apache-2.0
"""Programs of native/bench that begin when told, and say what they found in lines of JSON."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from harp.bench.machine import Machine
from harp.errors import HarpError

__all__ = ["CODE_BYTES", "Program", "programs"]

#: of a limit: a program's kernels, which are charged beside what it allocates, by the granule
CODE_BYTES = 2 << 20
#: longest silence; the longest job of `oversub` takes a minute, on a slow host a few
_LINE_S = 600.0


class Program:
    """One that runs. What it says is asked for: it is not heard meanwhile (`clients.Client` is)."""

    def __init__(self, box: Machine, command: Sequence[str], *options: str) -> None:
        """Start it; `options` are of `harp run`, where harpd runs."""
        self._process = subprocess.Popen(
            box.under_harp(command, *options),
            env=dict(box.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The tenant's: `harp run` becomes it."""
        return self._process.pid

    def read(self) -> dict[str, Any]:
        """The next thing it says.

        Raises:
            HarpError: it ended, or says nothing.
        """
        assert self._process.stdout is not None
        silent = threading.Event()

        def end() -> None:
            silent.set()
            self._process.kill()

        watchdog = threading.Timer(_LINE_S, end)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if silent.is_set():
            raise HarpError(f"a program said nothing for {_LINE_S:g} s and was ended")
        if not line:
            raise self._ended()
        said: dict[str, Any] = json.loads(line)
        return said

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """End it in peace; the last thing it says.

        Raises:
            HarpError: it failed, or says nothing.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        said = self.read()
        try:
            status = self._process.wait(_LINE_S)
        except subprocess.TimeoutExpired as error:
            raise HarpError(f"a program does not end in {_LINE_S:g} s") from error
        if status != 0:
            raise self._ended()
        return said

    def close(self) -> None:
        """End it and forget it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _ended(self) -> HarpError:
        assert self._process.stderr is not None
        words = self._process.stderr.read().strip()[-300:]
        return HarpError(f"a program ended with {self._process.wait()}: {words}")


@contextmanager
def programs() -> Iterator[list[Program]]:
    """Ends those that are in the list afterwards."""
    found: list[Program] = []
    try:
        yield found
    finally:
        for one in found:
            one.close()
