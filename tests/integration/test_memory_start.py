# SPDX-License-Identifier: Apache-2.0
"""Many processes begin at once: none waits long, none hangs, none is refused what it may have."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harp.bench.figures import percentile
from tests.integration.machine import Machine, machine
from tests.integration.test_memory_stress import leased

#: two of the largest: contexts of 256 processes do not fit on one
DEVICES = "h100-80g,h100-80g"
ADDED_MS, TOLERANCE = 5, 10
ROUNDS, LEAST_ROUNDS, TOGETHER, SLOW_S = 1000, 50, 32, 300.0
HANG_S = 30.0  #: of one round, which takes a tenth of a second


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_SOFT_DEVICES=DEVICES) as made:
        made.start_harpd()
        yield made


def starting(box: Machine, processes: int, at_once: int) -> list[str]:
    program = box.native_dir / "harp-bench-memory"
    command = [str(program), "start", str(processes), "--at-once", str(at_once)]
    return [*command, "--devices", "2"]


def bare(box: Machine, command: list[str]) -> dict[str, Any]:
    env = box.env | {"LD_LIBRARY_PATH": str(box.native_dir / "soft")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_startup_256(box: Machine) -> None:
    """As many on their way at a time as there are cores; `harp bench memory` has the rest."""
    command = starting(box, 256, 2)
    without = bare(box, command)
    child = box.tenant("--gpu", "0,1", "--mem", "1GiB", command=command)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    under = json.loads(out)
    assert len(under["init_ms"]) == 256
    added_ms = percentile(under["init_ms"], 99) - percentile(without["init_ms"], 99)
    # The last of them find 190 others there and may not take longer for it.
    growth = under["init_ms_last"] / under["init_ms_first"]
    print(f"added at p99 {added_ms:.2f} ms, last quarter / first {growth:.2f}")
    assert added_ms <= ADDED_MS * TOLERANCE
    assert growth <= TOLERANCE
    assert not any(leased(box).values())


@pytest.mark.slow
def test_a_thousand_rounds_of_32_starts_hang_never(box: Machine) -> None:
    command = starting(box, TOGETHER, TOGETHER)
    script = f"while read -r round; do {' '.join(command)} || exit 1; done"
    child = box.tenant("--gpu", "0,1", "--mem", "1GiB", command=["/bin/sh", "-c", script])
    assert child.stdin is not None
    assert child.stdout is not None
    begin, done, slowest_s = time.monotonic(), 0, 0.0
    while done < ROUNDS and time.monotonic() - begin < SLOW_S:
        start = time.monotonic()
        child.stdin.write("go\n")
        child.stdin.flush()
        hangs = not select.select([child.stdout], [], [], HANG_S)[0]
        assert not hangs, f"round {done} is not over in {HANG_S:g} s"
        line = child.stdout.readline()
        assert line, child.stderr.read() if child.stderr else ""
        assert len(json.loads(line)["init_ms"]) == TOGETHER
        slowest_s = max(slowest_s, time.monotonic() - start)
        done += 1
    print(f"{done} rounds of {TOGETHER} processes, the slowest {slowest_s * 1e3:.0f} ms")
    assert done >= LEAST_ROUNDS
