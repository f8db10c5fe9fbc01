# SPDX-License-Identifier: Apache-2.0
"""An accelerator that is none takes leases and time: the arbiter knows nothing of CUDA.

Null clients share an engine of their own (a locked file that keeps its own ledger of busy time).
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import ROOT, Admin, Client, World, world

from harp.lease_wire import GRANULE_BYTES, Op


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    native = ROOT / "native"
    target = tmp_path_factory.mktemp("null") / "harp-null-client"
    source = native / "src" / "arbiter" / "null_client.c"
    flags = ["-std=c17", "-D_GNU_SOURCE", "-O1", f"-I{native / 'include'}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(target)], check=True)
    return target


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        made.start()
        yield made


def start(
    w: World, program: Path, tenant: int, *options: object, lane: int | None = None
) -> subprocess.Popen[str]:
    command = [program, "--grant", w.grants[tenant], "--engine", w.base / "engine"]
    command += ["--lane", str(lane or tenant), *map(str, options)]
    w.programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    return w.programs[-1]


def result(process: subprocess.Popen[str]) -> dict[str, int]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return {key: int(value) for key, value in (word.split("=") for word in out.split())}


def ledger(w: World) -> tuple[int, ...]:
    """Busy ns per lane, as the engine itself counted."""
    return struct.unpack("8Q", (w.base / "engine").read_bytes()[:64])


def both(w: World, program: Path, *options: object) -> tuple[Admin, float]:
    admin = w.admin()
    w.device(admin, 100)
    w.tenant(admin, 1, share=300_000)
    w.tenant(admin, 2, share=700_000)
    running = [start(w, program, n, "--seconds", 4, *options) for n in (1, 2)]
    for process in running:
        assert result(process)["launches"] > 20
    busy = ledger(w)
    return admin, busy[1] / (busy[1] + busy[2])


@pytest.mark.parametrize("kernel_us", [200, 1000])
def test_thirty_beside_seventy_by_the_engines_own_ledger(
    w: World, program: Path, kernel_us: int
) -> None:
    admin, share = both(w, program, "--kernel-us", kernel_us)
    print(f"engine: {share:.4f}")
    assert share == pytest.approx(0.3, abs=0.02)
    # What the arbiter charged agrees with what the engine saw.
    charged = [admin.use(n).used_ns for n in (1, 2)]
    assert charged[0] / sum(charged) == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_without_the_gate_the_same_check_fails(w: World, program: Path) -> None:
    _, share = both(w, program, "--kernel-us", 1000, "--no-gate")
    assert abs(share - 0.3) > 0.05


@pytest.mark.slow
def test_two_processes_of_one_tenant_share_its_part(w: World, program: Path) -> None:
    admin = w.admin()
    w.device(admin, 100)
    w.tenant(admin, 1, share=500_000)
    w.tenant(admin, 2, share=500_000)
    options = ("--seconds", 4, "--kernel-us", 500)
    running = [start(w, program, 1, *options, lane=lane) for lane in (1, 3)]
    running.append(start(w, program, 2, *options))
    for process in running:
        result(process)
    busy = ledger(w)
    assert (busy[1] + busy[3]) / sum(busy) == pytest.approx(0.5, abs=0.05)


def test_null_accelerator_takes_memory_beside_others(w: World, program: Path) -> None:
    admin = w.admin()
    w.device(admin, 100)
    cuda = Client(w.tenant(admin, 1, limit=30))
    w.tenant(admin, 2, limit=50)
    assert cuda.lease(30).op == Op.MEM_GRANT
    first = start(w, program, 2, "--mem-bytes", 50 * GRANULE_BYTES, "--seconds", 1)
    told = result(first)
    assert (told["granted"], told["leased_bytes"]) == (1, 50 * GRANULE_BYTES)
    admin.drain_all()
    too_much = start(w, program, 2, "--mem-bytes", 51 * GRANULE_BYTES, "--seconds", 0)
    assert result(too_much)["granted"] == 0
    assert admin.use(1).leased_bytes == 30 * GRANULE_BYTES


@pytest.mark.slow
@pytest.mark.usefixtures("in_front")
def test_bursts_with_idle_time_leave_the_engine_to_the_other(w: World, program: Path) -> None:
    admin = w.admin()
    w.device(admin, 100)
    w.tenant(admin, 1, share=500_000)
    w.tenant(admin, 2, share=500_000)
    bursts = ("--burst", 2, "--idle-us", 20_000)
    idle = start(w, program, 1, "--seconds", 3, "--kernel-us", 1000, *bursts)
    hungry = start(w, program, 2, "--seconds", 3, "--kernel-us", 1000)
    assert result(idle)["launches"] > 50
    assert result(hungry)["launches"] > 1000
    busy = ledger(w)
    assert busy[2] / 3e9 > 0.7
