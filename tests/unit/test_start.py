# SPDX-License-Identifier: Apache-2.0
"""How long a harpd that was started is waited for: as long as it gets on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harp.cli import start
from harp.errors import DaemonUnreachable
from harp.rundir import RunDir

#: computes for as long as it is told, then answers; HARP_RUN is its folder
SLOW = f"""#!{sys.executable} -IS
import os, socket, time
while time.process_time() < {{computes_s}}:
    pass
time.sleep({{sleeps_s}})
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.bind(os.environ["HARP_RUN"] + "/auth.sock")
sock.listen()
time.sleep(20)
"""


Harpd = Callable[[float, float], list[subprocess.Popen[bytes]]]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def harpd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harpd]:
    """What is started in harpd's place: computes, then sleeps. A second of sleep is too much.

    Returns what has been started.
    """
    begun: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def begin(*given: Any, **options: Any) -> subprocess.Popen[bytes]:
        begun.append(popen(*given, **options))
        return begun[-1]

    def make(computes_s: float, sleeps_s: float) -> list[subprocess.Popen[bytes]]:
        program = tmp_path / "python"
        program.write_text(SLOW.format(computes_s=computes_s, sleeps_s=sleeps_s))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        monkeypatch.setattr(start, "_READY_S", 1)
        monkeypatch.setattr(subprocess, "Popen", begin)
        return begun

    yield make
    for child in begun:
        child.kill()
        child.wait()


def test_one_that_gets_on_slowly_is_waited_for(run_dir: RunDir, harpd: Harpd) -> None:
    harpd(1.5, 0)
    start.spawn(run_dir, {}, ())
    assert run_dir.alive()


def test_one_that_does_nothing_is_given_up(run_dir: RunDir, harpd: Harpd) -> None:
    begun = harpd(0, 20)
    with pytest.raises(DaemonUnreachable, match=r"not ready in .* it said nothing"):
        start.spawn(run_dir, {}, ())
    (child,) = begun
    assert child.wait(10) == -signal.SIGTERM  # and is not left behind


def test_one_that_computes_for_ever_is_given_up(
    run_dir: RunDir, harpd: Harpd, monkeypatch: pytest.MonkeyPatch
) -> None:
    harpd(20, 0)
    monkeypatch.setattr(start, "_MOST_S", 1)
    began_s = time.monotonic()
    with pytest.raises(DaemonUnreachable, match="not ready in"):
        start.spawn(run_dir, {}, ())
    assert time.monotonic() - began_s < 10
