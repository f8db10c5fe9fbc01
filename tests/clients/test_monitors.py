# SPDX-License-Identifier: Apache-2.0
"""nvitop and gpustat, unmodified: both see who holds how much of which device."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20
CONTEXT_MIB = 512  # of the h100-80g profile
HOLD = Path(__file__).parent / "programs" / "hold.py"


@pytest.fixture
def machine(soft_env: dict[str, str]) -> dict[str, str]:
    return {**soft_env, "HARP_SOFT_DEVICES": "h100-80g,h100-mig-2x40g,t4-16g"}


@pytest.fixture
def holders(machine: dict[str, str]) -> Iterator[dict[int, int]]:
    """Two processes on the first device: {pid: MiB}."""
    started = []
    try:
        for mib in (300, 1000):
            process = subprocess.Popen(
                [sys.executable, "-B", str(HOLD), str(mib)],
                env={**machine, "CUDA_VISIBLE_DEVICES": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append((process, mib + CONTEXT_MIB))
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
        yield {process.pid: mib for process, mib in started}
    finally:
        for process, _ in started:
            process.kill()
            process.communicate(timeout=30)


def test_gpustat(machine: dict[str, str], holders: dict[int, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpustat", "--json"],
        env=machine,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["driver_version"] == "580.65.06"
    h100, split, t4 = told["gpus"]
    assert h100["name"] == "HARP Software GPU (H100 80GB model)"
    assert {p["pid"]: p["gpu_memory_usage"] for p in h100["processes"]} == holders
    assert h100["memory.used"] == sum(holders.values())
    assert h100["memory.total"] == 81559
    assert (h100["temperature.gpu"], h100["power.draw"]) == (32, 70)
    assert h100["enforced.power.limit"] == 700
    assert h100["fan.speed"] is None
    assert h100["utilization.gpu"] == 0
    assert split["utilization.gpu"] is None  # in MIG mode nobody says
    assert split["processes"] == t4["processes"] == []


def screen(argv: list[str], env: dict[str, str]) -> str:
    """What a program draws on a terminal, without its colours."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, {**env, "TERM": "xterm", "COLUMNS": "120", "LINES": "60"})
    drawn = b""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            part = os.read(fd, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        drawn += part
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    text = drawn.decode()
    assert status == 0, text
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_nvitop(machine: dict[str, str], holders: dict[int, int]) -> None:
    text = screen([sys.executable, "-m", "nvitop", "--once"], machine)
    assert "Driver Version: 580.65.06" in text
    assert "CUDA Driver Version: 13.0" in text
    for pid, mib in holders.items():
        [row] = [line for line in text.splitlines() if re.search(rf"\b0\s+{pid} C\b", line)]
        assert f" {mib}MiB" in row or f" {mib}.0MiB" in row, row
    assert f"{sum(holders.values())}MiB / 79.65GiB" in text
    assert "32C   P0     70W / 700W" in text
    # the board in MIG mode, and each of its instances
    assert re.search(r"Enabled +0", text)
    assert "3g.40gb @ GI/CI: 1/0" in text
    assert "3g.40gb @ GI/CI: 2/0" in text
    assert "39.50GiB" in text
