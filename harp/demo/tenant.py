# SPDX-License-Identifier: Apache-2.0
"""One training program: started, listened to, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harp.errors import HarpError

__all__ = ["PROGRAM", "Tenant"]

PROGRAM = Path(__file__).with_name("digits.py")


class Tenant:
    """A running `digits.py` and what it has printed so far.

    Args:
        name: for messages.
        command: what to start.
        env: its environment.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        #: {step: loss}, written by the reader thread under _changed's lock
        self.losses: dict[int, float] = {}
        #: pid the program says it has; 0 until it has said so
        self.pid = 0
        #: the "end" line; empty until it has come
        self.end: dict[str, object] = {}
        self._changed = threading.Condition()
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in kill()
        self._process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._reader.start()

    @staticmethod
    def command(*, seed: int, steps: int = 0) -> list[str]:
        """The program, to be run by this Python."""
        return [sys.executable, str(PROGRAM), "--seed", str(seed), "--steps", str(steps)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            with self._changed:
                match event:
                    case {"event": "start", "pid": int(pid)}:
                        self.pid = pid
                    case {"event": "step", "step": int(step), "loss": float(loss)}:
                        self.losses[step] = loss
                    case {"event": "end"}:
                        self.end = event
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_steps(self, steps: int, deadline_s: float) -> None:
        """Waits until `steps` losses have been printed.

        Raises:
            HarpError: the program ended first, or time.monotonic() passed `deadline_s`.
        """
        with self._changed:
            while len(self.losses) < steps:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise HarpError(
                        f"{self.name} printed {len(self.losses)} of {steps} losses in time",
                        self.complaint() or "the machine may be too busy; run it again",
                    )
                self._changed.wait(min(left_s, 1.0))
                if len(self.losses) < steps and not self._reader.is_alive():
                    code = self._process.wait()
                    raise HarpError(f"{self.name} ended with {code}", self.complaint())

    def check_alive(self) -> None:
        """Raises HarpError if the program has ended."""
        if self._process.poll() is not None:
            raise HarpError(
                f"{self.name} ended with {self._process.returncode} before its time",
                self.complaint(),
            )

    def finish(self, *, ask: bool, timeout_s: float) -> None:
        """Waits for the end of the program; with `ask` tells it to end first.

        Raises:
            HarpError: it failed, or did not end in time (it is killed then).
        """
        if ask:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HarpError(f"{self.name} did not end in {timeout_s:g} s", "") from None
        self._reader.join(timeout_s)
        if code != 0 or not self.end:
            raise HarpError(f"{self.name} ended with {code}", self.complaint())

    def kill(self) -> None:
        """Ends the program at once and waits for it."""
        with contextlib.suppress(ProcessLookupError):
            # Its own session: what it may have started goes with it.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        self._stderr.close()

    def complaint(self) -> str:
        """The last lines the program wrote to standard error."""
        if self._stderr.closed:
            return ""
        self._stderr.flush()
        position = self._stderr.tell()
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()[-8:]
        self._stderr.seek(position)
        return "\n".join(lines)
