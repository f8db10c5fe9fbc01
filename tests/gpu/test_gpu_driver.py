# SPDX-License-Identifier: Apache-2.0
"""The real driver: its names, its answers, its private tables, what it costs."""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from driver_names import judge
from elf_names import exported

from native.api import cuda

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

Record = Callable[[str, object], None]


def test_driver_exports_no_allocating_or_launching_name_without_a_row(
    gpu: Gpu, record_property: Record
) -> None:
    names = exported(gpu.cuda_path)
    known = {s.name for s in cuda.SYMBOLS}
    found = judge(names - known)
    record_property("known", len(names & known))
    record_property("unknown", found.unknown)
    record_property("debugger", found.debugger)
    record_property("missing", sorted(known - names))
    assert "cuInit" in names  # else nothing was read
    assert found.suspect == []


def test_getprocaddress_against_the_exported_addresses(gpu: Gpu, record_property: Record) -> None:
    """Only recorded: whether both ways lead to one address is the driver's own affair."""
    library = ctypes.CDLL(str(gpu.cuda_path))
    version = ctypes.c_int()
    assert library.cuDriverGetVersion(ctypes.byref(version)) == 0
    same, differ, refused = 0, [], []
    for row in cuda.FUNCTIONS:
        for s in row.symbols:
            if not 0 < s.since <= version.value or not hasattr(library, s.name):
                continue
            entry, status = ctypes.c_void_p(), ctypes.c_int()
            code = library.cuGetProcAddress_v2(
                row.name.encode(),
                ctypes.byref(entry),
                s.since,
                ctypes.c_uint64(2 if s.per_thread else 0),
                ctypes.byref(status),
            )
            want = ctypes.cast(getattr(library, s.name), ctypes.c_void_p).value
            if code != 0 or not entry.value:
                refused.append(f"{s.name} {s.since}: {code}, {status.value}")
            elif entry.value == want:
                same += 1
            else:
                differ.append(f"{s.name} {s.since}")
    record_property("same", same)
    record_property("differ", differ)
    record_property("refused", refused)
    assert same + len(differ) + len(refused) > 300


def test_private_export_table_is_passed_through(gpu: Gpu, record_property: Record) -> None:
    """Where the table is, no more: nothing in it is called."""
    bare = json.loads(gpu.ask("table", run=None))
    record_property("bare", bare)
    for run in ((), ("--mem", "1GiB", "--share", "50%")):
        shimmed = json.loads(gpu.ask("table", run=run))
        record_property(" ".join(run) or "shimmed", shimmed)
        assert shimmed == bare
    if not gpu.software:
        assert bare["code"] == 0


def _settled(gpu: Gpu) -> int:
    """Bytes in use once they have stayed the same for a second: dead contexts go late."""
    seen: list[int] = []
    deadline_s = time.monotonic() + 30
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        assert time.monotonic() < deadline_s, f"somebody else uses the device: {seen[-5:]}"
        time.sleep(0.25)
        seen.append(gpu.nvml.memory_used(gpu.uuid))
    return seen[-1]


def test_context_overhead_by_nvml(gpu: Gpu, record_property: Record) -> None:
    added: list[list[int]] = []
    listed: list[list[int | None]] = []
    for _ in range(3):
        used, pids = [_settled(gpu)], []
        for _ in range(2):
            child = gpu.start("hold", run=None)
            assert child.stdout is not None
            assert child.stdout.readline()
            pids.append(child.pid)
            used.append(_settled(gpu))
        by_pid = {use.pid: use.mem_bytes for use in gpu.nvml.processes(gpu.uuid)}
        added.append([used[1] - used[0], used[2] - used[1]])
        listed.append([by_pid.get(pid) for pid in pids])  # None: another pid namespace
        gpu.end_children()
    record_property("added_bytes_first_and_second_context", added)
    record_property("listed_bytes", listed)
    assert all(first > 0 and second > 0 for first, second in added), added


def test_slices_of_two_unlimited_processes(gpu: Gpu, record_property: Record) -> None:
    """Only recorded: how long the driver lets each of two processes have the device."""
    start_s = time.monotonic() + 5
    children = [gpu.start("slices", 300, start_s, run=None) for _ in range(2)]
    lines = [child.communicate(timeout=60)[0].splitlines() for child in children]
    for number, said in enumerate(lines):
        found = json.loads(said[-1])
        for key in ("had_us", "away_us"):
            taken = found[key]
            record_property(
                f"process_{number}_{key}",
                {
                    "n": len(taken),
                    "median": statistics.median(taken) if taken else None,
                    "min": min(taken, default=None),
                    "max": max(taken, default=None),
                },
            )
