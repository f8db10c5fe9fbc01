# SPDX-License-Identifier: Apache-2.0
"""Runs of real tenants, as harpd writes them down."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harp.errors import HistoryError
from harp.estimator.history import History
from harp.estimator.job import Outcome, Run
from tests.integration.machine import PROGRAM, Machine, machine, wait_for

MIB = 1 << 20
SECRET = "hunter2-is-no-secret-of-ours"


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


def job(mib: int, *more: str) -> list[str]:
    return [sys.executable, str(PROGRAM), str(mib), "1", *more]


def runs_of(box: Machine, count: int) -> list[Run]:
    """What is in the file, once there are so many."""

    def look() -> list[Run] | None:
        with History(box.run_dir / "state" / "history.db", writes=False) as history:
            found = list(history.runs())
        return found if len(found) >= count else None

    return wait_for(look, f"{count} runs in history")


def ended(box: Machine, *options: str, mib: int = 64, status: int = 0) -> None:
    """A tenant that runs a second and ends by itself."""
    child = box.tenant(*options, command=job(mib, "--token", SECRET))
    assert child.stdout
    if child.stdout.readline() == "ready\n":
        time.sleep(1.2)
    child.communicate("", timeout=30)
    assert child.returncode == status


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15),
    reason="before Linux 6.15 how a process ended is known to its parent alone, or by chance",
)
def test_four_runs_and_how_they_ended(box: Machine) -> None:
    box.start_harpd()
    limit = ("--mem", "128MiB", "--share", "40%")
    ended(box, *limit)
    ended(box, *limit)
    ended(box, *limit, mib=200, status=3)  # asks for more than its limit
    killed = box.gpu_tenant(*limit, mib=32)
    killed.kill()
    killed.wait()
    first, second, oom, dead = runs_of(box, 4)
    assert [run.outcome for run in (first, second, oom, dead)] == [
        Outcome.DONE,
        Outcome.DONE,
        Outcome.OOM,
        Outcome.KILLED,
    ]
    assert [run.exit_status for run in (first, second, oom, dead)] == [0, 0, 3, -signal.SIGKILL]
    assert [run.number for run in (first, second, oom, dead)] == [1, 2, 3, 4]
    assert first.job == second.job != oom.job
    assert (first.job.shape, first.job.user) == (oom.job.shape, oom.job.user)
    assert first.job.numbers[0] == ("operand.2", 64.0)
    assert first.job.asked_mem_bytes == first.mem_limit_bytes == 128 * MIB
    assert first.job.asked_share_ratio == first.share_ratio == 0.4
    assert first.job.gpu
    for run in (first, second):
        assert run.used["gpu_mem_bytes"] == 64 * MIB
        assert 1.2 <= run.used["duration_s"] < 10
        assert 5 * MIB < run.used["host_mem_bytes"] < 500 * MIB
        assert 0 <= run.used["cpu_cores"] < 4
        assert (run.attempted_bytes, run.elastic) == (0, False)
    assert oom.attempted_bytes == 200 * MIB
    assert oom.used["gpu_mem_bytes"] < 128 * MIB
    assert dead.used["gpu_mem_bytes"] == 32 * MIB
    assert first.ended_s <= second.started_s <= second.ended_s <= oom.started_s
    for path in (box.run_dir / "state").iterdir():
        assert SECRET.encode() not in path.read_bytes()
        assert b"gpu_program" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert SECRET not in (box.run_dir / "harpd.log").read_text()


def restart(box: Machine, number: int) -> None:
    """End harpd, by that signal, and start another."""
    pid = box.harpd_pid()
    os.kill(pid, number)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "harpd ends")
    box.start_harpd()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_harpd_that_is_replaced_loses_nothing_of_who_runs(box: Machine, number: int) -> None:
    box.start_harpd()
    child = box.gpu_tenant("--mem", "128MiB", mib=64)
    state = box.run_dir / "state" / "history.db"
    wait_for(lambda: _notes(state) or None, "the tenant is noted")
    restart(box, number)
    time.sleep(1.2)
    child.communicate("", timeout=30)
    (run,) = runs_of(box, 1)
    assert (run.outcome, run.exit_status) == (Outcome.DONE, 0)
    assert run.used["gpu_mem_bytes"] == 64 * MIB
    assert run.used["duration_s"] > 1.2
    assert run.job.program
    assert run.job.asked_mem_bytes == 128 * MIB
    assert _notes(state) == []


def test_who_ends_while_there_is_no_harpd_is_lost(box: Machine) -> None:
    box.start_harpd()
    child = box.gpu_tenant("--mem", "128MiB", mib=64)
    time.sleep(2.5)  # it is looked at
    pid, left_s = box.harpd_pid(), time.time()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "harpd ends")
    child.communicate("", timeout=30)
    time.sleep(0.5)
    box.start_harpd()
    (run,) = runs_of(box, 1)
    assert (run.outcome, run.exit_status) == (Outcome.LOST, None)
    assert run.used["gpu_mem_bytes"] == 64 * MIB
    assert run.ended_s < left_s + 1
    assert run.job.program


@pytest.mark.alone
@pytest.mark.slow
def test_a_share_is_what_it_had(box: Machine, busy: Path) -> None:
    box.start_harpd()
    child = box.tenant(
        "--limit", "30%", "--mem", "256MiB", command=[str(busy), "sync", "2000", "12"]
    )
    child.communicate("\n", timeout=60)
    assert child.returncode == 0
    (run,) = runs_of(box, 1)
    assert run.used["share_ratio"] == pytest.approx(0.3, abs=0.1)
    assert run.used["duration_s"] > 12
    assert run.used["cpu_cores"] > 0


def test_words_that_are_no_text_are_run_and_remembered(box: Machine) -> None:
    box.start_harpd()
    for _ in range(2):
        done = box.harp("run", "--", "sh", "-c", "exit 0", os.fsdecode(b"\xff\xfe"))
        assert done.returncode == 0, done.stderr
    first, second = runs_of(box, 2)
    assert first.job == second.job
    assert first.job.program


def test_a_broken_history_ends_nothing(box: Machine) -> None:
    (box.run_dir / "state").mkdir(parents=True, mode=0o700)
    (box.run_dir / "state" / "history.db").write_bytes(b"none" * 1000)
    box.start_harpd()
    done = box.harp("run", "--name", "t", "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    wait_for(lambda: box.ps("t") is None, "tenant t ends")
    (said,) = box.events("history_not_kept")
    assert "move the file away" in said["hint"]


def _notes(path: Path) -> list[str]:
    try:
        with History(path, writes=False) as history:
            return list(history.kept())
    except HistoryError:
        return []
