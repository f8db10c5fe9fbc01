# SPDX-License-Identifier: Apache-2.0
"""kill -9 of program, link near, link far, worker while they work: nobody hangs, memory is back.

Links' listeners stay: what ends is one session, and the next one has what the last one had.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from link_session import Far, Near, children, until

from tests.contract.local_backend import Local
from tests.integration.remote_world import client_env
from tests.integration.shim_world import soft_world

PROGRAM = Path(__file__).resolve().parent / "remote_program.py"
#: ten times what is promised for the memory of a killed program
BACK_S = 30
VICTIMS = ("program", "near", "far", "worker")
#: CUDA_ERROR_DEVICE_UNAVAILABLE from any call; what ends while it begins is no device
UNAVAILABLE, NO_DEVICE = " 46", "cuInit 100"


@dataclass
class Chain:
    """Both listeners, the tenant of all workers, and what a program needs."""

    local: Local
    far: Far
    near: Near
    env: dict[str, str]

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), *argv],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def parts(self) -> dict[str, int]:
        """Pids of what the session has by now; the program is not among them."""
        near = children(self.near.process.pid)
        far = children(self.far.process.pid)
        worker = children(far[0]) if far else []
        found = {"near": near, "far": far, "worker": worker}
        return {name: pids[0] for name, pids in found.items() if pids}

    def settle(self) -> None:
        """The session has gone, in all its parts, and the device has its memory back."""
        until("the session's end", lambda: not self.parts(), BACK_S)
        self.local.settle()


@pytest.fixture
def chain(native_dir: Path, tmp_path: Path) -> Iterator[Chain]:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    with soft_world(native_dir, devices="h100-80g") as world, contextlib.ExitStack() as stack:
        local = Local(world)
        env = stack.enter_context(local.tenant())
        names = ("HARP_GRANT", "HARP_CUDA_REAL", "HARP_NVML_REAL", "HARP_LOG")
        lines = [f"{name}={env[name]}" for name in names]
        (sessions / "one").write_text("\n".join(["a-token", *lines, ""]))
        driver = world.shim / "libcuda.so.1"
        far = Far(native_dir, tmp_path, world.bare_env(), driver=driver, sessions=sessions)
        stack.enter_context(contextlib.closing(far))
        (tmp_path / "token").write_text("a-token")
        options = ("--token-file", str(tmp_path / "token"))
        near = Near(native_dir, tmp_path, far.address, *options, session="one")
        stack.enter_context(contextlib.closing(near))
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        yield Chain(local, far, near, client_env(native_dir, tmp_path, near.path, plain))
        assert far.process.poll() is None, far.log.read_text()
        assert near.process.poll() is None, near.log.read_text()


def one_round(chain: Chain, victim: str, delay_s: float) -> None:
    program = chain.start("busy")
    try:
        time.sleep(delay_s)
        if victim == "program":
            program.kill()
        else:
            until(f"the {victim}", lambda: victim in chain.parts(), BACK_S)
            os.kill(chain.parts()[victim], signal.SIGKILL)
        out, err = program.communicate(timeout=BACK_S)
    finally:
        program.kill()
    if victim != "program":  # it lives on, is told, and leaves
        word = out.splitlines()[-1]
        assert word.endswith(UNAVAILABLE) or word == NO_DEVICE, (victim, delay_s, out, err)
    chain.settle()


def kill_some(chain: Chain, rounds: int) -> None:
    seed = int(os.environ.get("HARP_TEST_SEED") or random.randrange(1 << 32))
    print(f"HARP_TEST_SEED={seed}")
    rng = random.Random(seed)
    told = chain.start("add", "2").communicate(timeout=BACK_S)[0]
    assert '"right": true' in told
    chain.settle()
    for number in range(rounds):
        one_round(chain, VICTIMS[number % len(VICTIMS)], rng.uniform(0.05, 0.9))
    last = chain.start("add", "1000")
    out, err = last.communicate(timeout=60)
    assert '"right": true' in out, (out, err)
    chain.settle()


@pytest.mark.slow
def test_a_few_kills(chain: Chain) -> None:
    kill_some(chain, 8)


@pytest.mark.slow
def test_many_kills(chain: Chain) -> None:
    kill_some(chain, 32)
