# SPDX-License-Identifier: Apache-2.0
"""Small allocations of a program whose GPU is elsewhere: without a round trip, and as exact as
with one. By a worker on the software GPU, and by one that is a tenant of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from shim_world import MIB, World, soft_world

from tests.integration.remote_world import Serving, serving

PROGRAM = Path(__file__).resolve().parent / "lease_program.py"
INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY = 1, 500, 2
LIMIT, MOST = 160 * MIB, 2 * MIB
#: what is to be soon; a loaded machine gets as long
SOON_S = 30.0


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, devices="h100-80g") as made:
        yield made


@pytest.fixture
def tenant(world: World) -> str:
    """A new one: what an earlier one's sessions had need not have come back yet."""
    name = f"t{len(world.tenants)}"
    world.tenant(name, mem=LIMIT)
    return name


def serve(world: World, tenant: str, folder: Path) -> AbstractContextManager[Serving]:
    env = world.env(tenant)
    del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
    return serving(world.native, folder, env, world.shim / "libcuda.so.1")


@pytest.fixture
def local(world: World, tenant: str, tmp_path: Path) -> Iterator[Serving]:
    """Workers that are a tenant with a limit."""
    with serve(world, tenant, tmp_path) as found:
        yield found
        found.settle(SOON_S)
        until("the memory to be back", lambda: world.usage(tenant).leased_bytes == 0)


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def soft(native_dir: Path, soft_dir: Path, soft_env: dict[str, str]) -> Iterator[Serving]:
    with serving(native_dir, soft_dir, soft_env | {"HARP_SOFT_DEVICES": "h100-80g"}) as found:
        yield found


@pytest.fixture(params=["soft", "local"])
def served(request: pytest.FixtureRequest) -> Serving:
    found: Serving = request.getfixturevalue(request.param)
    return found


def program_env(served: Serving, **more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    return served.client_env({**plain, **more})


def run(served: Serving, what: str, arg: str = "", **more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), what, arg],
        env=program_env(served, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextmanager
def asked(served: Serving, what: str) -> Iterator[subprocess.Popen[str]]:
    """A program that goes on when it is told to."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), what],
        env=program_env(served),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_what_is_allocated_again_is_not_waited_for(served: Serving) -> None:
    told = run(served, "trips")
    # 1, 2, 4, 8, 16, 32, 32, 32 at a time, and the end of it
    assert told["hundred"] <= 10
    assert told["step"] == 2  # what it reads: 30 allocations and as many frees wait for nothing
    assert told["once"] == 30


def test_strict_waits_for_each(soft: Serving) -> None:
    told = run(soft, "trips", HARP_STRICT="1")
    assert told["hundred"] == 201
    assert told["step"] == 2 + 30 + 30 + 30  # with the fills


@pytest.mark.parametrize("kib", ["1024", "700", "40"])
def test_there_is_as_much_as_without(
    local: Serving, world: World, tmp_path_factory: pytest.TempPathFactory, kib: str
) -> None:
    told = run(local, "limit", kib)
    world.tenant(f"strict-{kib}", mem=LIMIT)
    with serve(world, f"strict-{kib}", tmp_path_factory.mktemp("strict")) as other:
        strict = run(other, "limit", kib, HARP_STRICT="1")
        other.settle(SOON_S)
    assert told == strict
    assert told["count"] >= LIMIT // max(int(kib) << 10, MIB) - 2
    assert told["unique"]
    assert told["again"] == 0
    assert told["info"] == [True, True]  # it is all free, as before


def test_all_that_there_is_at_once(local: Serving) -> None:
    told = run(local, "whole")
    for name in ("alloc", "pitched", "ordered"):
        assert (told[name], told[f"{name} again"]) == (0, OUT_OF_MEMORY)
    assert told["more"] == 0
    assert told["still"]


def test_it_is_an_allocation_like_any(served: Serving) -> None:
    assert run(served, "errors") == {
        "range": [True, 4096],
        "attributes": [True, 4096, True],
        "aligned": True,
        "fresh": True,
        "overrun": INVALID_VALUE,
        "fill": INVALID_VALUE,
        "inside": INVALID_VALUE,
        "twice": INVALID_VALUE,
        "written": INVALID_VALUE,
        "filled": INVALID_VALUE,
        "asked": NOT_FOUND,
        "attribute": INVALID_VALUE,
        "anew": [True, True],
        "sync": 0,
    }


def test_threads_are_given_different_memory(served: Serving) -> None:
    assert run(served, "threads") == {"wrong": [], "sync": 0}


def test_it_ends_with_its_context(served: Serving) -> None:
    assert run(served, "contexts") == {"owners": True, "sync": 0}


def test_a_capture_is_not_disturbed(served: Serving) -> None:
    assert run(served, "captured") == {"graph": True, "sync": 0}


@pytest.mark.slow
def test_what_is_not_used_goes_back(local: Serving, world: World, tenant: str) -> None:
    with asked(local, "idle") as process:
        assert line(process) == "warm"
        spare = world.usage(tenant).leased_bytes
        # A program that makes no call keeps it from the tenant's others: so much, and no more. A
        # block of its own, and one that libharp leases ahead, are in it.
        assert 0 < spare <= MOST + 4 * MIB
        assert run(local, "limit", "1024")["count"] >= (LIMIT - MOST - 4 * MIB) // MIB
        local.workers.pop().wait(SOON_S)
        time.sleep(1.2)
        go_on(process)
        assert line(process) == "idle"
        until("it to be back", lambda: world.usage(tenant).leased_bytes < spare)
        go_on(process)


def test_a_killed_program_gives_it_back(local: Serving, world: World, tenant: str) -> None:
    with asked(local, "idle") as process:
        assert line(process) == "warm"
        assert world.usage(tenant).leased_bytes
        process.kill()
    until("it to be back", lambda: world.usage(tenant).leased_bytes == 0)
