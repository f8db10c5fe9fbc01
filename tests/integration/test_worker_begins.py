# SPDX-License-Identifier: Apache-2.0
"""How a worker's session begins and ends, by what SESSION.md says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import (
    WANTED,
    Client,
    Worker,
    WorkerGoneError,
    table_text,
)
from shim_world import MIB, ROOT, World
from worker_world import (
    alloc,
    held,
    is_back,
    session,
    start,
    stream,
    sync,
    tenants,
    zero,
)


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with tenants(native_dir) as made:
        yield made


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with session(world) as made:
        yield made


# --- opening, and the end -------------------------------------------------------------------------

#: a program of its own: a session with 256 MiB; tells of the worker, and waits to be killed
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from ring_client import Worker
native, driver, forks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "forks"
worker = Worker(native, driver, json.loads(sys.stdin.readline()))
client = worker.dial()
client.context()
client.must("cuMemAlloc_v2", dptr=1, bytesize=256 << 20)
child = os.fork() if forks else 0
if not forks or child:
    print(worker.process.pid, child, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_killed_clients_memory_is_back_in_three_seconds(world: World, how: str) -> None:
    """Also where a child of it keeps the socket open."""
    env = world.env("remote")
    del env["LD_PRELOAD"]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, world.native, world.shim / "libcuda.so.1", how],
        env={k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
        | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/integration'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    with program:
        program.stdin.write(json.dumps(env) + "\n")
        program.stdin.flush()
        worker, child = map(int, program.stdout.readline().split())
        assert held(world, worker) >= 256 * MIB
        program.kill()
        is_back(world, worker)
        if child:
            os.kill(child, signal.SIGKILL)


#: sends both ends of a connection that is its own, and dies
MAKER = """
import socket, sys
made = socket.socketpair()
to = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(to, [b"2"], [end.fileno() for end in made])
"""


def test_a_client_that_is_dead_before_it_is_watched_leaves_nothing(world: World) -> None:
    """Somebody else has its socket, and nobody has its pid any more."""
    here, there = socket.socketpair()
    with here, there:
        asked = [sys.executable, "-c", MAKER, str(there.fileno())]
        subprocess.run(asked, pass_fds=[there.fileno()], check=True)
        _, (ours, theirs), _, _ = socket.recv_fds(here, 1, 2)
    env = world.env("remote")
    del env["LD_PRELOAD"]
    pair = socket.socket(fileno=ours), socket.socket(fileno=theirs)
    with Worker(world.native, world.shim / "libcuda.so.1", env, pair) as worker:
        worker.dial()
        assert worker.ended() == 0


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(world: World) -> None:
    with start(world) as worker:
        c = worker.dial()
        c.context()
        on, flag = stream(c), zero(c)
        alloc(c, 64 * MIB)
        c.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
        c.send("cuStreamSynchronize", how=WANTED, hStream=on)  # for ever
        c.sock.close()
        assert worker.ended() == 0
        is_back(world, worker.process.pid)


def test_a_killed_worker_is_seen_at_once(world: World) -> None:
    with start(world) as worker:
        c = worker.dial()
        c.context()
        worker.process.kill()
        began = time.monotonic()
        with pytest.raises(WorkerGoneError):
            sync(c)
        assert time.monotonic() - began < 10  # and not the 30 s that a client waits


def test_other_tables_are_refused_with_both_versions(world: World) -> None:
    with start(world) as worker:
        with pytest.raises(ConnectionRefusedError, match="9\\.9\\.9"):
            worker.dial(table_text("0" * 64, "9.9.9"))
        assert worker.ended() == 1


def test_no_driver_is_said(world: World) -> None:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    with Worker(world.native, Path("/nowhere/libcuda.so.1"), env) as worker:
        with pytest.raises(ConnectionRefusedError, match="driver cannot be opened"):
            worker.dial()
        assert "/nowhere/libcuda.so.1" in worker.words()


def test_what_it_is_started_with_is_checked(native_dir: Path) -> None:
    for wrong in ((), ("--socket",), ("--socket", "x", "--driver", "y"), ("--what", "1")):
        done = subprocess.run(
            [native_dir / "harp-worker", *wrong], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("usage: harp-worker --socket FD --driver PATH")
