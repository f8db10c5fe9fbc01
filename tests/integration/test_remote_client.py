# SPDX-License-Identifier: Apache-2.0
"""Programs whose GPU is behind a harp-worker: what they compute, and how often they wait for it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.remote_world import Serving, serving

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "remote_program.py"
INVALID_VALUE, DEVICE_UNAVAILABLE, NO_DEVICE = 1, 46, 100


@pytest.fixture
def served(native_dir: Path, soft_dir: Path, soft_env: dict[str, str]) -> Iterator[Serving]:
    env = {**soft_env, "HARP_SOFT_DEVICES": "h100-80g", "HARP_SOFT_TEARDOWN_MS": "0"}
    with serving(native_dir, soft_dir, env) as found:
        yield found


@pytest.fixture
def env(served: Serving) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    return served.client_env(plain)


def run(env: dict[str, str], *argv: str, **more: Any) -> str:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *argv],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def add(env: dict[str, str], count: int = 1000) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(env, "add", str(count)))
    return told


def test_it_waits_as_often_as_it_must(served: Serving, env: dict[str, str]) -> None:
    told = add(env)
    assert told["right"]
    assert told["first_allocation"] <= 10
    assert told["vector_add"] <= 20
    assert told["thousand"] == 1
    served.settle()


def test_a_graphs_node_is_set_again_without_waiting(env: dict[str, str]) -> None:
    told = json.loads(run(env, "graph"))
    assert (told["more"], told["wrong"]) == (0, INVALID_VALUE)
    assert told["first"] == 2  # and its first launch
    assert (told["another grid"], told["another graph that runs"]) == (1, 1)
    assert told["sums"] == [1.0 + 2.0 * 100 + 1.0]


def test_strict_waits_for_every_call_and_computes_the_same(env: dict[str, str]) -> None:
    told = add({**env, "HARP_STRICT": "1"})
    assert told["right"]
    assert told["thousand"] == 1001


def test_there_is_nothing_but_the_c_library_in_the_program(native_dir: Path) -> None:
    said = subprocess.run(
        ["readelf", "-dlW", native_dir / "libharp.so"], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].split("]")[0] for line in said.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libpthread.so.0", "libdl.so.2"}
    assert "TLS" not in {line.split()[0] for line in said.splitlines() if line.split()}


def test_little_address_space_is_enough(env: dict[str, str]) -> None:
    """`ulimit -v`: no room to reserve the device's addresses here, and no failure for it."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    assert run(env, "large", preexec_fn=limit) == "[7]\n"


def test_a_variable_is_copied_by_its_address(env: dict[str, str]) -> None:
    assert run(env, "variable") == "True True True\n"


def test_a_copy_takes_what_the_stream_wrote_before(env: dict[str, str]) -> None:
    assert run(env, "chain") == "[7]\n"


def ready(env: dict[str, str]) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, str(PROGRAM), "wait"], env=env, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_dead_worker_is_a_clean_error(served: Serving, env: dict[str, str]) -> None:
    child = ready(env)
    served.worker().send_signal(signal.SIGKILL)
    out, _ = child.communicate(timeout=30)
    assert (int(out), child.returncode) == (DEVICE_UNAVAILABLE, 0)


def test_a_dead_program_leaves_no_worker(served: Serving, env: dict[str, str]) -> None:
    child = ready(env)
    child.kill()
    child.communicate(timeout=30)
    served.settle(timeout_s=30)


def test_nobody_there_is_no_device(env: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    gone = {**env, "HARP_REMOTE": str(tmp_path / "none"), "HARP_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "add", "1"],
        env=gone,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"cuInit {NO_DEVICE}\n"
    assert "remote_not_opened" in log.read_text()
    assert "remedy=" in log.read_text()
