# SPDX-License-Identifier: Apache-2.0
"""SIGKILL anywhere leaves the software GPU as it was: no byte charged, no engine stuck."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import wait_for
from tests.integration.shim_world import compile_c

HERE = Path(__file__).resolve().parent
VICTIMS, AT_ONCE = 200, 6
#: a victim lives so long at most, its start included
LIFE_S = 0.3
LETTERS = {
    "i": "start",
    "x": "contexts",
    "l": "modules",
    "a": "allocation",
    "f": "free",
    "h": "pinned memory",
    "c": "copies",
    "d": "fills",
    "m": "fills",
    "n": "sleeping kernels",
    "k": "kernels",
    "s": "waiting",
}

#: what a program that has just begun sees; then it works, and must be right
FRESH = """
import ctypes as c, json, sys
sys.path.insert(0, sys.argv[1])
from soft_mod_driver import Driver, Params
d = Driver()
free, total = c.c_size_t(), c.c_size_t()
d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
import numpy as np
data = np.arange(1 << 20, dtype="f4")
module = d.module()
a, b = d.up(data), d.alloc(data.nbytes)
d.launch(d.function(module, "add1"), Params(a, b, c.c_uint32(len(data))), (4096, 1, 1), (256, 1, 1))
d.launch(d.function(module, "nap"), Params(c.c_uint32(5)))
d.sync()
assert (d.down(b, len(data)) == data + 1).all()
whole = d.alloc(free.value - (64 << 20))
d.ok("cuMemFree_v2", whole)
print(json.dumps([free.value, total.value]))
"""

#: works all the while, and checks what it gets
SURVIVOR = """
import ctypes as c, sys
sys.path.insert(0, sys.argv[1])
from soft_mod_driver import Driver, Params
import numpy as np
d = Driver()
add1 = d.function(d.module(), "add1")
data = np.zeros(4096, "f4")
a = d.up(data)
rounds = 0
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    d.launch(add1, Params(a, a, c.c_uint32(4096)), (16, 1, 1), (256, 1, 1))
    d.sync()
    rounds += 1
    if rounds % 16 == 0:
        assert (d.down(a, 4096) == rounds % 2**24).all()
print(rounds)
"""


def _python(code: str) -> list[str]:
    return [sys.executable, "-B", "-c", code, str(HERE.parent / "contract")]


def _fresh(env: dict[str, str]) -> list[int]:
    done = subprocess.run(
        _python(FRESH), env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: list[int] = json.loads(done.stdout)
    return told


def _truth(native: Path, env: dict[str, str]) -> dict[str, Any]:
    command = [str(native / "harp-soft-truth"), "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _nvml(env: dict[str, str]) -> tuple[int, int]:
    """Bytes used and processes listed, as NVML tells it."""
    code = """
import pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
print(n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).used,
      len(n.nvmlDeviceGetComputeRunningProcesses(h)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    used, count = done.stdout.split()
    return int(used), int(count)


def _kill_many(program: Path, env: dict[str, str], seed: int) -> collections.Counter[str]:
    """Runs and kills; where the victims were when they died."""
    dice = random.Random(seed)
    where: collections.Counter[str] = collections.Counter()
    running: list[tuple[float, subprocess.Popen[str]]] = []
    left = VICTIMS
    try:
        while left or running:
            while left and len(running) < AT_ONCE:
                command = [str(program), str(dice.getrandbits(31))]
                victim = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
                running.append((time.monotonic() + dice.uniform(0, LIFE_S), victim))
                left -= 1
            due, victim = min(running, key=lambda one: one[0])
            time.sleep(max(0.0, due - time.monotonic()))
            victim.kill()
            trail, _ = victim.communicate(timeout=30)
            running.remove((due, victim))
            assert "!" not in trail, f"a victim failed by itself: {trail[trail.index('!') :]}"
            assert victim.returncode == -signal.SIGKILL
            where[LETTERS[trail[-1]] if trail else "before the start"] += 1
    finally:
        for _due, victim in running:
            victim.kill()
            victim.communicate()
    return where


@pytest.mark.slow
def test_killed_anywhere_nothing_is_left(
    native_dir: Path, soft_env: dict[str, str], tmp_path: Path
) -> None:
    seed = int(os.environ.get("HARP_TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"HARP_TEST_SEED={seed}")
    soft_env |= {"HARP_SOFT_DEVICES": "t4-16g", "HARP_SOFT_TEARDOWN_MS": "20"}
    soft_env |= {"XDG_CACHE_HOME": str(tmp_path)}
    library = native_dir / "soft" / "libcuda.so.1"
    program = compile_c(HERE / "soft_victim.c", tmp_path / "victim", str(library))

    def idle() -> bool:
        told = _truth(native_dir, soft_env)
        held = [row for row in told["processes"] if row["state"] != "gone"]
        return told["devices"][0]["used_bytes"] == 0 and not held

    with subprocess.Popen([program, "1"], env=soft_env, stdout=subprocess.DEVNULL) as first:
        time.sleep(1.5)  # its kernels are compiled: later victims get further
        first.kill()
    wait_for(idle, "an idle GPU")
    baseline = _fresh(soft_env)
    wait_for(idle, "an idle GPU")
    assert _nvml(soft_env) == (0, 0)
    with subprocess.Popen(
        _python(SURVIVOR),
        env=soft_env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as survivor:
        assert survivor.stdout is not None
        assert survivor.stdout.readline() == "ready\n"
        alone = _nvml(soft_env)
        assert alone[1] == 1
        where = _kill_many(program, soft_env, seed)
        print(dict(where))
        # the survivor alone is left, and what it had before
        wait_for(lambda: _nvml(soft_env) == alone, "only the survivor's memory is left")
        out, _ = survivor.communicate("\n", timeout=60)
        assert survivor.returncode == 0
        assert int(out) > 20
    assert sum(where.values()) == VICTIMS
    assert len(where) >= 5, f"killed in too few places to mean much: {where}"

    wait_for(idle, "no byte is charged")
    for row in _truth(native_dir, soft_env)["processes"]:
        assert (row["mem_bytes"], row["context_bytes"]) == (0, 0), row
    assert _nvml(soft_env) == (0, 0)
    start = time.monotonic()
    assert _fresh(soft_env) == baseline
    assert time.monotonic() - start < 30  # it takes a second: no engine is stuck
