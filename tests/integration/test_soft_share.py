# SPDX-License-Identifier: Apache-2.0
"""The bare software GPU, without HARP: who saturates it together has equal parts of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harp.demo import truth

WINDOW_S = 4.0
#: largest distance of an achieved share from an equal one
TOLERANCE = 0.02
#: on a busy machine a window may go wrong; a device that is unfair is so in every window
WINDOWS = 3
#: least part of the window that the engine was busy, or shares say nothing
BUSY = 0.6


@contextlib.contextmanager
def saturating(native: Path, env: dict[str, str], kernels_us: list[int]) -> Iterator[list[int]]:
    """Programs with work queued at all times; their pids."""
    programs: list[subprocess.Popen[str]] = []
    try:
        for kernel_us in kernels_us:
            command = [native / "harp-bench-busy", "--kernel-us", str(kernel_us)]
            # They report once a minute: nobody reads on.
            command += ["--report-ms", "60000"]
            programs.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        pids = [_ready(program) for program in programs]
        time.sleep(0.5)
        yield pids
        assert [program.poll() for program in programs] == [None] * len(programs)
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def _ready(program: subprocess.Popen[str]) -> int:
    assert program.stdout is not None
    pid = json.loads(program.stdout.readline())["pid"]
    assert isinstance(pid, int)
    return pid


def window(native: Path, env: dict[str, str], pids: list[int]) -> tuple[list[float], float]:
    """Shares by the engine's own ledger, and how busy it was."""
    begin = truth.read(native, env)
    time.sleep(WINDOW_S)
    end = truth.read(native, env)
    return end.shares(begin, pids), end.busy_ratio(begin, pids)


def off(shares: list[float]) -> float:
    return max(abs(share - 1 / len(shares)) for share in shares)


@pytest.mark.slow
@pytest.mark.parametrize("kernels_us", [[200, 200], [200, 200, 200], [50, 1000]], ids=str)
def test_saturating_processes_have_equal_parts(
    native_dir: Path, soft_env: dict[str, str], kernels_us: list[int]
) -> None:
    with saturating(native_dir, soft_env, kernels_us) as pids:
        seen = []
        for _ in range(WINDOWS):
            shares, busy = window(native_dir, soft_env, pids)
            seen.append(([round(share, 4) for share in shares], round(busy, 3)))
            if off(shares) <= TOLERANCE and busy >= BUSY:
                break
        else:
            pytest.fail(f"no window of {WINDOW_S:g} s was fair: {seen}")
    print(kernels_us, seen)


@pytest.mark.slow
def test_the_measure_can_tell(native_dir: Path, soft_env: dict[str, str]) -> None:
    """A program that is stopped for part of the window has less, and it shows."""
    with saturating(native_dir, soft_env, [200, 200]) as pids:
        begin = truth.read(native_dir, soft_env)
        os.kill(pids[0], signal.SIGSTOP)
        time.sleep(1)
        os.kill(pids[0], signal.SIGCONT)
        time.sleep(1)
        shares = truth.read(native_dir, soft_env).shares(begin, pids)
        assert off(shares) > 3 * TOLERANCE, shares
        assert shares[0] < shares[1]
