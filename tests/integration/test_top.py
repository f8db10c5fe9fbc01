# SPDX-License-Identifier: Apache-2.0
"""`harp top` on a terminal of 80 x 24, beside a real harpd that dies and comes back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.machine import ROOT, Machine, machine


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


class Terminal:
    """What a program writes to it, from the last time that it was looked for something on."""

    def __init__(self, fd: int, child: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self.child = child
        self.written = b""

    def read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side is closed
            return False
        self.written += data
        return bool(data)

    def until(self, text: str, timeout_s: float = 30) -> None:
        end = time.monotonic() + timeout_s
        while text.encode() not in self.written:
            left = end - time.monotonic()
            assert left > 0, (text, self.written[-3000:])
            if select.select([self._fd], [], [], left)[0]:
                assert self.read(), (text, self.written[-3000:])
        self.written = self.written.partition(text.encode())[2]

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())


@contextmanager
def terminal(box: Machine, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    env = {**box.env, "TERM": "xterm-256color"}
    child = subprocess.Popen(
        [sys.executable, "-m", "harp", "top", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours, child)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(ours)


def test_a_harpd_that_dies_and_comes_back_is_survived(box: Machine) -> None:
    box.start_harpd()
    tenant = box.gpu_tenant("--name", "seen-by-top", "--mem", "256MiB", mib=64)
    with terminal(box, "--interval", "0.2") as screen:
        screen.until("software")
        screen.until("seen-by-top")
        screen.until("64MiB")
        os.kill(box.harpd_pid(), signal.SIGKILL)
        screen.until("trying again")
        box.start_harpd()
        # The tenant goes on, and what it does now is shown.
        tenant.communicate("", timeout=30)
        screen.until("no tenants; harp run -- CMD makes one")
        screen.press("?")
        screen.until("the other way round")
        screen.press("qq")
        screen.until("\x1b[?1049l")  # the terminal is as it was
        while screen.read():
            pass
        assert screen.child.wait(10) == 0
        assert b"Traceback" not in screen.written


def test_ctrl_c_quits(box: Machine) -> None:
    box.start_harpd()
    with terminal(box) as screen:
        screen.until("TENANT")
        screen.press("\x03")
        screen.until("\x1b[?1049l")
        while screen.read():
            pass
        assert screen.child.wait(10) == 0


def test_without_a_harpd_it_says_so_at_once(box: Machine) -> None:
    with terminal(box) as screen:
        screen.until("no harpd runs in")
        while screen.read():
            pass
        assert screen.child.wait(10) == 1
        assert b"1049h" not in screen.written
