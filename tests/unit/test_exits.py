# SPDX-License-Identifier: Apache-2.0
"""How processes that are not ours ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from harp.daemon.exits import Exits, Left
from harp.procs import start_of

#: Linux 6.15 tells how a process ended whose parent has asked
TOLD = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)
#: a shell whose child we watch: `{}` is what the child does, and the shell then says how it ended
PARENT = 'sh -c "{}" & echo $!; read x; wait $!; echo "ended $?"; read x'


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def watched(
    does: str, look: Callable[[Exits, int, subprocess.Popen[str]], Coroutine[None, None, None]]
) -> None:
    async def steps(pid: int, parent: subprocess.Popen[str]) -> None:
        exits = Exits()
        exits.watch(1, pid, start_of(pid))
        try:
            await look(exits, pid, parent)
        finally:
            exits.close()

    command = ["sh", "-c", PARENT.replace("{}", does)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        try:
            asyncio.run(steps(int(parent.stdout.readline()), parent))
        finally:
            parent.kill()


async def gone(exits: Exits) -> Left:
    async with asyncio.timeout(10):
        while (left := exits.of(1)) is None:  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)
    return left


@pytest.mark.parametrize(
    ("does", "status"),
    [
        ("sleep 0.2; exit 7", 7),
        ("sleep 0.2", 0),
        ("sleep 0.2; kill -9 $$", -signal.SIGKILL),
        ("sleep 0.2; kill -15 $$", -signal.SIGTERM),
    ],
)
@pytest.mark.parametrize("reaped", [False, True])
def test_its_status_and_its_time_are_known(does: str, status: int, reaped: bool) -> None:
    """Of one whose parent has not asked yet, and of one whose parent has."""

    async def look(exits: Exits, pid: int, parent: subprocess.Popen[str]) -> None:
        assert exits.of(1) is None
        began_s = time.time()
        assert parent.stdin
        assert parent.stdout
        if reaped:
            parent.stdin.write("\n")
            parent.stdin.flush()
            parent.stdout.readline()
            assert start_of(pid) == 0
            late_s = time.time()
            await asyncio.sleep(0.1)
        else:
            await gone(exits)
            late_s = time.time()
        left = await gone(exits)
        assert left.status == (None if reaped and not TOLD else status)
        assert began_s <= left.at_s <= late_s + 0.05
        assert exits.of(1) == left

    watched(does.replace("$$", r"\$\$"), look)


def test_a_number_that_is_anothers_by_now_is_not_watched() -> None:
    async def look(exits: Exits, pid: int, _: subprocess.Popen[str]) -> None:
        exits.watch(1, pid, start_of(pid) + 1)
        assert exits.of(1) is None
        exits.watch(1, 2**22 + 1, 5)
        assert exits.of(1) is None

    watched("sleep 5", look)


def test_nothing_is_left_open() -> None:
    async def look(exits: Exits, pid: int, _: subprocess.Popen[str]) -> None:
        before = descriptors()
        for tenant in range(2, 50):
            exits.watch(tenant, pid, start_of(pid))
            exits.watch(tenant, pid, start_of(pid))
        assert descriptors() == before + 48
        exits.close()
        assert descriptors() == before - 1

    watched("sleep 5", look)
