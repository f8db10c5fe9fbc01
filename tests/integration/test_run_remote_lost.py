# SPDX-License-Identifier: Apache-2.0
"""`harp run --remote` when a connection is lost: the command goes on, with the same session."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import until
from run_remote_world import Here
from serve_world import Remote, serving

from harp.bench.remote_path import descendants

PROGRAM = str(Path(__file__).parent / "remote_program.py")


def connections(pid: int, cut: bool = False) -> set[int]:
    """A process's to other hosts, by their ports here; they may be cut under it."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd, found = os.pidfd_open(pid), set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        fd = libc.syscall(438, pidfd, int(path.name), 0)  # pidfd_getfd
        if fd < 0:
            continue
        try:
            copy = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        with copy, contextlib.suppress(OSError):
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getpeername():
                found.add(copy.getsockname()[1])
                if cut:
                    copy.shutdown(socket.SHUT_RDWR)
    os.close(pidfd)
    return found


@pytest.fixture
def here(native_dir: Path) -> Iterator[Here]:
    with contextlib.closing(Here(native_dir)) as made:
        yield made


@pytest.fixture
def node(native_dir: Path) -> Iterator[Remote]:
    with serving(native_dir) as made:
        yield made


def links(pid: int) -> list[int]:
    """Of a command, the processes of harp-link."""
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/exe").readlink().name == "harp-link":
                found.append(child)
    return found


@pytest.mark.slow
def test_a_command_goes_on(here: Here, node: Remote) -> None:
    words = ("--remote", node.endpoint, "--insecure", "--", sys.executable, PROGRAM, "wait")
    child = here.ready(*words)
    workers, (lease,) = node.workers(), node.leases()
    (link,) = [pid for pid in links(child.pid) if connections(pid)]
    for _ in range(3):
        before = connections(link, cut=True)
        assert len(before) == 1
        until("another", lambda old=before: connections(link) - old)
    assert child.poll() is None
    assert node.workers() == workers
    assert node.leases()[0]["sessions"] == lease["sessions"]
    child.terminate()
    child.communicate(timeout=60)
    until("the lease's end", lambda: not node.leases())
