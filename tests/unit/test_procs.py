# SPDX-License-Identifier: Apache-2.0
"""Processes by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from proc_files import write_stat

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
    # Also while it is still starting its program, whose name comes a moment later.
    assert procs.environ_of(child.pid, "HARP_GRANT") == "/x"
    assert procs.environ_of(child.pid, "HARP_NONE") is None
    while (found := procs.name_of(child.pid))[0] != "sleep":
        assert found[0] != "?"
    assert found == ("sleep", os.getuid())
    child.kill()
    child.wait()
    assert procs.name_of(child.pid) == ("?", -1)
    assert procs.environ_of(child.pid, "HARP_GRANT") is None


def test_the_fields_looked_at_are_the_bounds_of_the_environment(tmp_path: Path) -> None:
    mine = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    assert int(mine[48]) - int(mine[47]) == len(Path("/proc/self/environ").read_bytes())
    write_stat(tmp_path, (int(mine[47]), int(mine[48])), vsize=int(mine[20]))
    made = (tmp_path / "stat").read_bytes().rpartition(b")")[2].split()
    assert [made[i] for i in (20, 47, 48)] == [mine[i] for i in (20, 47, 48)]


@pytest.mark.parametrize(
    ("env", "vsize", "may"),
    [
        ((0, 0), 4096, True),  # in execve()
        ((4000, 4096), 4096, True),  # no longer
        ((4096, 4096), 4096, False),  # as of `env -i`
        ((0, 0), 0, False),  # a kernel's thread, a zombie
    ],
)
def test_who_may_have_an_environment(
    tmp_path: Path, env: tuple[int, int], vsize: int, *, may: bool
) -> None:
    write_stat(tmp_path, env, vsize=vsize)
    assert procs.may_have_environ(tmp_path) is may


def test_an_environment_that_comes_a_moment_later_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7").mkdir()
    write_stat(tmp_path / "7", (0, 0))
    environ = tmp_path / "7" / "environ"
    environ.touch()
    waits: list[float] = []

    def sleep(s: float) -> None:
        waits.append(s)
        if len(waits) == 3:
            environ.write_bytes(b"HARP_GRANT_X=/y\0HARP_GRANT=/x=\xff\0HARP_GRANT=/z\0")

    monkeypatch.setattr(procs, "_PROC", tmp_path)
    monkeypatch.setattr(procs, "time", SimpleNamespace(sleep=sleep))
    assert procs.environ_of(7, "HARP_GRANT") == "/x=\udcff"
    assert procs.environ_of(7, "GRANT") is None
    assert len(waits) == 3
    environ.write_bytes(b"")
    waits.clear()
    waits += [0] * 3  # and now it goes on for ever, in which nobody is kept
    assert procs.environ_of(7, "HARP_GRANT") is None
    assert sum(waits) < 0.1


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


def test_processor_time_and_memory_are_the_processes_own() -> None:
    code = "x = bytearray(64 << 20); sum(range(10_000_000)); print('x', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        found = procs.read(child.pid)
        held, shared = procs.memory_of(child.pid)
        child.kill()
    assert found
    assert 0.05 < found.cpu_ticks / os.sysconf("SC_CLK_TCK") < 60
    assert (64 << 20) < held - shared < (128 << 20)
    assert 0 < shared < (64 << 20)
    assert procs.memory_of(2**22 + 1) == (0, 0)
