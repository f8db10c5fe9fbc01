# SPDX-License-Identifier: Apache-2.0
"""Processes by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from harp import procs


def _sleeper(**kwargs: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], **kwargs)  # type: ignore[call-overload, no-any-return]


def test_a_process_is_read_as_the_kernel_tells_it() -> None:
    me = procs.read(os.getpid())
    assert me
    assert (me.ppid, me.session) == (os.getppid(), os.getsid(0))
    assert me.start > 0
    assert not me.zombie
    assert procs.all_procs()[os.getpid()] == me
    assert procs.read(2**22 + 1) is None
    assert procs.start_of(2**22 + 1) == 0


def test_a_name_with_parentheses_and_blanks_does_not_confuse() -> None:
    code = "open('/proc/self/comm', 'w').write('a) R 1 (b'); print('x', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        found = procs.read(child.pid)
        child.kill()
    assert found
    assert found.ppid == os.getpid()


def test_a_zombie_has_no_start() -> None:
    child = _sleeper()
    assert procs.start_of(child.pid) > 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procs.start_of(child.pid) == 0
    found = procs.read(child.pid)
    assert found
    assert found.zombie
    child.wait()


def test_environment_name_and_user_are_read() -> None:
    child = _sleeper(env={"HARP_GRANT": "/x", "PATH": os.environ["PATH"]})
    # until execve the child shows our own environment
    for _ in range(200):
        if procs.name_of(child.pid)[0] == "sleep":
            break
    assert procs.environ_of(child.pid, "HARP_GRANT") == "/x"
    assert procs.environ_of(child.pid, "HARP_NONE") is None
    assert procs.name_of(child.pid) == ("sleep", os.getuid())
    child.kill()
    child.wait()
    assert procs.name_of(child.pid) == ("?", -1)
    assert procs.environ_of(child.pid, "HARP_GRANT") is None


def test_only_the_process_that_was_meant_is_signalled() -> None:
    child = _sleeper()
    start = procs.start_of(child.pid)
    with pytest.raises(ProcessLookupError):
        procs.send_signal(child.pid, start + 1, signal.SIGKILL)
    assert child.poll() is None
    procs.send_signal(child.pid, start, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        procs.send_signal(child.pid, start, signal.SIGKILL)


def test_users_have_names() -> None:
    assert procs.user_name(0) == "root"
    assert procs.user_name(4_000_000) == "4000000"
    assert procs.user_name(-1) == "?"
