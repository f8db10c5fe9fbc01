# SPDX-License-Identifier: Apache-2.0
"""What test_worker*.py ask of a worker on its own ring, asked once more through harp-link."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_worker
import test_worker_bytes
import test_worker_functions
from link_session import Far, Near, alive, until
from ring_client import Client
from shim_world import MIB, ROOT, World
from worker_world import held, is_back

world = test_worker.world


@contextlib.contextmanager
def linked(world: World, native: Path, folder: Path) -> Iterator[tuple[Far, Near]]:
    """Two links with TCP between them."""
    env = world.env("remote")
    del env["LD_PRELOAD"]
    with contextlib.closing(Far(native, folder, env, driver=world.shim / "libcuda.so.1")) as far:
        options = ("--token-file", str(far.token))
        with contextlib.closing(Near(native, folder, far.address, *options)) as near:
            yield far, near


@pytest.fixture
def client(world: World, native_dir: Path, tmp_path: Path) -> Iterator[Client]:
    """A session that has a context."""
    with linked(world, native_dir, tmp_path) as (far, near):
        made = near.dial()
        made.context()
        yield made
        assert far.process.poll() is None, far.log.read_text()
        assert near.process.poll() is None


#: all that need nothing but a session
for _module in (test_worker, test_worker_bytes, test_worker_functions):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and set(inspect.signature(_test).parameters) == {"client"}:
            globals()[_name] = _test


#: a program of its own: it has 256 MiB, perhaps a child, and waits to be killed
PROGRAM = """
import os, socket, sys, time
from ring_client import Client
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
client = Client(sock)
client.context()
client.must("cuMemAlloc_v2", dptr=1, bytesize=256 << 20)
child = os.fork() if sys.argv[2] == "forks" else -1
if child:
    print(child, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_killed_programs_memory_is_back_in_three_seconds(
    world: World, native_dir: Path, tmp_path: Path, how: str
) -> None:
    """Also where a child of it keeps the socket open."""
    with linked(world, native_dir, tmp_path) as (far, near):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, near.path, how],
            env=world.bare_env() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/integration'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        child = -1
        try:
            child = int(program.stdout.readline())
            worker, session = far.worker(), near.session()
            assert held(world, worker) >= 256 * MIB
            program.kill()
            is_back(world, worker)
            until("the session's end", lambda: not alive(session))
        finally:
            program.kill()
            if child > 0:
                os.kill(child, signal.SIGKILL)
            program.stdout.close()
            program.wait()
