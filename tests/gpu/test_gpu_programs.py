# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs on libcudart under HARP: PyTorch, CuPy, what nvcc builds."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from counting import count

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

PROGRAMS = Path(__file__).with_name("gpu_programs.py")
GIB = 1 << 30
SECONDS = 8.0
Record = Callable[[str, object], None]


def need(*modules: str) -> None:
    """Skips where a module is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed here")


def ask(gpu: Gpu, command: list[str], *run: str) -> list[dict[str, Any]]:
    """The JSON lines of a command; bare when no options of `harp run` are given."""
    said = gpu.finish(command, run or None)
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def python(what: str) -> list[str]:
    return [sys.executable, str(PROGRAMS), what]


def test_torch_trains_the_same(gpu: Gpu, record_property: Record) -> None:
    need("torch")
    bare = ask(gpu, python("train"))
    record_property("bare", bare[-1])
    assert ask(gpu, python("train"), "--mem", "4GiB", "--share", "40%") == bare


def test_torch_and_cupy_see_and_meet_the_limit(gpu: Gpu, record_property: Record) -> None:
    need("torch", "cupy")
    seen = {k: v for line in ask(gpu, python("limits"), "--mem", "4GiB") for k, v in line.items()}
    record_property("limited", seen)
    assert seen["torch_total"] == seen["cupy_total"] == 4 * GIB
    assert seen["torch_error"] == "OutOfMemoryError"
    assert "OutOfMemory" in seen["cupy_error"] or "MemoryAllocation" in seen["cupy_error"]
    assert seen["sums"] == [(2**20 - 1) * 2**19, 2**20]
    free = {k: v for line in ask(gpu, python("limits")) for k, v in line.items()}
    assert free["torch_total"] > 4 * GIB  # the limit's doing
    assert free["torch_error"] == ""


def test_torch_replays_its_graphs(gpu: Gpu) -> None:
    need("torch")
    assert ask(gpu, python("graph"), "--mem", "4GiB", "--share", "50%") == [{"x": 10.0, "y": 19.0}]


def test_what_nvcc_builds(gpu: Gpu, tmp_path: Path, record_property: Record) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed here")
    if gpu.software:
        pytest.skip("libcudart does not run on the software GPU")
    subprocess.run([*python("source"), str(tmp_path / "add.cu")], check=True)
    for kind in ("static", "shared"):
        program = str(tmp_path / kind)
        subprocess.run([nvcc, "-cudart", kind, "-o", program, str(tmp_path / "add.cu")], check=True)
        (bare,) = ask(gpu, [program])
        (limited,) = ask(gpu, [program], "--mem", "2GiB")
        record_property(kind, [bare, limited])
        assert bare == {**bare, "wrong": 0, "error": 0, "fits": 0, "too_much": 0}
        assert limited == {**limited, "wrong": 0, "fits": 0, "too_much": 2, "total": 2 * GIB}


def _counts(gpu: Gpu, **env: str) -> list[float]:
    """Steps a second of two trainings side by side, 30 beside 70."""
    children = []
    for share in (30, 70):
        name = f"torch-{share}{'-free' if env else ''}"
        run = ("--name", name, "--mem", "8GiB", "--share", f"{share}%")
        children.append(gpu.begin(python("steps"), run, **env))
    return [done / SECONDS for done in count(children, SECONDS)]


def test_two_trainings_30_beside_70(gpu: Gpu, record_property: Record) -> None:
    """By the steps each got done; both are the same program, so steps are time."""
    need("torch")
    gated = _counts(gpu)
    gpu.end_children()
    free = _counts(gpu, HARP_GATE="off")
    record_property("steps_per_s", {"gated": gated, "gate_off": free})
    assert gated[0] / sum(gated) == pytest.approx(0.30, abs=0.05)
    assert sum(gated) > 0.8 * sum(free)


def test_memory_of_a_killed_program_comes_back(gpu: Gpu, record_property: Record) -> None:
    """SIGKILL of one with 16 GiB: how long the device and NVML take; the next gets it all."""
    text = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gpu_client import *\n"
        "context(); alloc(16 << 30); say(ready=True); sys.stdin.read()\n"
    )
    holder = [sys.executable, "-c", text, str(PROGRAMS.parent)]
    child = gpu.begin(holder, ("--mem", "17GiB", "--name", "killed"))
    assert child.stdout is not None
    assert "ready" in child.stdout.readline()
    used = gpu.nvml.memory_used(gpu.uuid)
    pids = {use.pid for use in gpu.nvml.processes(gpu.uuid)}
    said = json.loads(gpu.harp("ps", "--json").stdout.splitlines()[-1])
    record_property("ps", said)
    child.kill()
    begin = time.monotonic()
    back_s = unlisted_s = 0.0
    while time.monotonic() - begin < 20 and not (back_s and unlisted_s):
        if not back_s and used - gpu.nvml.memory_used(gpu.uuid) > 15 * GIB:
            back_s = time.monotonic() - begin
        if not unlisted_s and not pids & {use.pid for use in gpu.nvml.processes(gpu.uuid)}:
            unlisted_s = time.monotonic() - begin
    record_property("seconds", {"memory_back": back_s, "unlisted": unlisted_s})
    assert back_s
    assert unlisted_s
    after = [sys.executable, "-c", text.replace("sys.stdin.read()", ""), str(PROGRAMS.parent)]
    assert ask(gpu, after, "--mem", "17GiB", "--name", "after") == [{"ready": True}]
