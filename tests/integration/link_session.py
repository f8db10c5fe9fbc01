# SPDX-License-Identifier: Apache-2.0
"""A program's ring, harp-link beside it, harp-link beside a worker, the software GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from link_world import SESSION, TOKEN
from ring_client import Client


def children(pid: int) -> list[int]:
    """Direct ones."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it is gone, or goes
        return []
    return [int(word) for word in words]


def alive(pid: int) -> bool:
    """And no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(what: str, holds: object, seconds: float = 20) -> None:
    """Wait for something to be so."""
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def link_program(native: Path) -> Path:
    """harp-link, or the test is skipped: the host may lack what it is built from."""
    program = native / "harp-link"
    if not program.exists():
        pytest.skip("harp-link is not built: libnghttp2-dev or libssl-dev is missing")
    return program


class Far:
    """harp-link beside its worker, for one session, or for those of a folder."""

    def __init__(
        self,
        native: Path,
        folder: Path,
        env: Mapping[str, str],
        *options: str,
        driver: Path | None = None,
        sessions: Path | None = None,
    ) -> None:
        program = link_program(native)
        self.token = folder / "token"
        self.token.write_text(f"{TOKEN}\n")
        self.log = folder / "far.log"
        worker = [native / "harp-worker", "--driver", driver or native / "soft" / "libcuda.so.1"]
        if sessions is not None:
            options += ("--sessions", str(sessions))
        else:
            options += ("--session", SESSION)
        if "--ca" not in options and sessions is None:
            options += ("--token-file", str(self.token))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(program, "far", "--listen", "127.0.0.1:0"),
                    *(*options, "--", *worker),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=dict(env),
            )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        self.process.stdout.close()
        assert words[:1] == ["ready"], self.log.read_text()
        self.address = f"localhost:{words[1]}"
        self.workers: set[int] = set()

    def worker(self) -> int:
        """Its pid, once there is one."""
        until("a worker", lambda: children(self.process.pid))
        self.workers.update(children(self.process.pid))
        return max(self.workers)

    def ends(self, seconds: float = 15) -> int:
        """Its exit code; whoever it started is gone by then."""
        return self.process.wait(timeout=seconds)

    def close(self) -> None:
        """Whatever is left of it."""
        mine = children(self.process.pid)
        for pid in self.workers.union(mine, *map(children, mine)):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/exe").readlink().name in ("harp-worker", "harp-link"):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Near:
    """harp-link beside programs."""

    def __init__(
        self,
        native: Path,
        folder: Path,
        address: str,
        *options: str,
        session: str = SESSION,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.log = folder / "near.sock", folder / "near.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(link_program(native), "near", "--socket", self.path, "--to", address),
                    *("--session", session, *options),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.process.stdout.close()
        assert line == "ready\n", self.log.read_text()
        self.sockets: list[socket.socket] = []

    def dial(self, table: str = "") -> Client:
        """A program's session."""
        sock = socket.socket(socket.AF_UNIX)
        self.sockets.append(sock)
        sock.connect(str(self.path))
        return Client(sock, table=table)

    def session(self) -> int:
        """The process of the one session."""
        (pid,) = children(self.process.pid)
        return pid

    def close(self) -> None:
        """All sessions, and the listener."""
        for sock in self.sockets:
            sock.close()
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.path.unlink(missing_ok=True)


class Pair:
    """Both ends, and a program's session between them."""

    def __init__(self, far: Far, near: Near) -> None:
        self.far, self.near = far, near
        self.client = near.dial()


@contextlib.contextmanager
def pair(
    native: Path,
    folder: Path,
    env: Mapping[str, str],
    far_options: Sequence[str] = (),
    near_options: Sequence[str] = (),
) -> Iterator[Pair]:
    """Plain with a token, unless options say otherwise."""
    far = Far(native, folder, env, *far_options)
    try:
        options = list(near_options) or ["--token-file", str(far.token)]
        near = Near(native, folder, far.address, *options)
        try:
            yield Pair(far, near)
        finally:
            near.close()
    finally:
        far.close()
