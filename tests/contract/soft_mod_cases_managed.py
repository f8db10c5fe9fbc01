# SPDX-License-Identifier: Apache-2.0
"""Cases of managed memory: what kernels, copies, graphs and NVML make of it."""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pynvml
from soft_mod_cases_graph import Graph, launch
from soft_mod_driver import (
    CAPTURE_UNSUPPORTED,
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    Driver,
    Params,
    case,
    main,
    np,
)

GRANULE = 2 << 20
GLOBAL, CPU = 1, c.c_int(-1)


def managed(d: Driver, size: int) -> c.c_uint64:
    out = c.c_uint64()
    d.ok("cuMemAllocManaged", c.byref(out), c.c_size_t(size), GLOBAL)
    return out


def view(ptr: c.c_uint64, count: int, dtype: str = "f4") -> np.ndarray[Any, Any]:
    """The host's own look at managed memory."""
    raw = (c.c_ubyte * (count * np.dtype(dtype).itemsize)).from_address(ptr.value)
    return np.frombuffer(raw, dtype)


def used(d: Driver) -> int:
    free, total = c.c_size_t(), c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    return total.value - free.value


def add1(d: Driver, source: c.c_uint64, to: c.c_uint64, count: int) -> None:
    """Runs out[i] = in[i] + 1."""
    function = d.function(d.module(), "add1")
    shape = ((count + 255) // 256, 1, 1), (256, 1, 1)
    d.launch(function, Params(source, to, c.c_uint32(count)), *shape)
    d.sync()


def attribute(d: Driver, number: int) -> int:
    out = c.c_int()
    d.ok("cuDeviceGetAttribute", c.byref(out), number, d.device)
    return out.value


@case
def a_client_that_asks_is_told_what_there_is(d: Driver) -> None:
    assert attribute(d, 83) == 1  # MANAGED_MEMORY
    assert attribute(d, 89) == 1  # CONCURRENT_MANAGED_ACCESS
    assert attribute(d, 88) == 0  # PAGEABLE_MEMORY_ACCESS
    assert attribute(d, 100) == 0  # PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    assert attribute(d, 101) == 0  # DIRECT_MANAGED_MEM_ACCESS_FROM_HOST


@case(waived={"local": "libharp charges managed memory in full when it is allocated"})
def host_and_kernels_share_it(d: Driver) -> None:
    count = 3 * GRANULE // 4
    d.module()  # its variables' granule
    before = used(d)
    source, to = managed(d, 4 * count), managed(d, 4 * count)
    assert used(d) == before
    view(source, count)[:] = np.arange(count, dtype="f4")
    add1(d, source, to, count)
    assert (view(to, count) == np.arange(count, dtype="f4") + 1).all()
    assert used(d) == before + 6 * GRANULE
    view(source, count)[:] = view(to, count)
    add1(d, source, to, count)
    assert (view(to, count) == np.arange(count, dtype="f4") + 2).all()
    d.ok("cuMemFree_v2", source)
    d.ok("cuMemFree_v2", to)
    assert used(d) == before


@case
def nvml_and_the_ledger_see_what_migrated(d: Driver) -> None:
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)

    def nvml() -> int:
        return {
            p.pid: int(p.usedGpuMemory) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device)
        }[os.getpid()]

    def ledger() -> int:
        tool = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
        told = json.loads(subprocess.run([tool], capture_output=True, check=True).stdout)
        return next(
            int(p["mem_bytes"])
            for p in told["processes"]
            if p["pid"] == os.getpid() and p["device"] == 0
        )

    before = nvml(), ledger()
    ptr = managed(d, 5 * GRANULE)
    assert (nvml(), ledger()) == before
    d.ok("cuMemPrefetchAsync", ptr, c.c_size_t(5 * GRANULE), d.device, None)
    d.sync()
    assert (nvml() - before[0], ledger() - before[1]) == (5 * GRANULE, 5 * GRANULE)
    d.ok("cuMemPrefetchAsync", ptr, c.c_size_t(2 * GRANULE), CPU, None)
    d.sync()
    assert (nvml() - before[0], ledger() - before[1]) == (3 * GRANULE, 3 * GRANULE)
    d.ok("cuMemFree_v2", ptr)
    assert (nvml(), ledger()) == before


def modelled_ns() -> int:
    tool = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
    told = json.loads(subprocess.run([tool], capture_output=True, check=True).stdout)
    return next(int(p["modelled_ns"]) for p in told["processes"] if p["pid"] == os.getpid())


@case
def a_first_touch_costs_what_moving_costs(d: Driver) -> None:
    ptr = managed(d, 2 * GRANULE)
    view(ptr, GRANULE // 4)[:] = 1
    store = d.function(d.module(), "store4")
    costs = []
    for offset in (0, 4096, GRANULE):
        before = modelled_ns()
        d.launch(store, Params(c.c_uint64(ptr.value + offset)))
        d.sync()
        costs.append(modelled_ns() - before)
    # first a granule that the host wrote, over 50 bytes/ns; then it is there; then an empty one
    assert costs[0] - costs[1] == 1500 + GRANULE // 50
    assert costs[2] - costs[1] == 1500


@case
def a_graph_copies_and_fills_it(d: Driver) -> None:
    count = GRANULE // 4
    source, to = managed(d, 4 * count), managed(d, 4 * count)
    g = Graph(d)
    first = g.fill(source, 0x3F800000, count)
    g.copy(to, source, 4 * count, first)
    executable = g.instantiate()
    launch(d, executable, 2)
    assert (view(to, count) == 1).all()
    view(source, count)[:] = 5
    launch(d, executable)
    assert (view(to, count) == 1).all()
    assert (view(source, count) == 1).all()


@case
def what_a_graph_copies_may_be_gone(d: Driver) -> None:
    source, to = d.alloc(4 * GRANULE), d.alloc(4 * GRANULE)
    g = Graph(d)
    g.copy(to, source, 4 * GRANULE)
    executable = g.instantiate()
    launch(d, executable)
    d.ok("cuMemFree_v2", source)
    d.ok("cuGraphLaunch", executable, None)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def a_capture_refuses_prefetches(d: Driver) -> None:
    ptr = managed(d, GRANULE)
    stream = d.stream()
    d.ok("cuStreamBeginCapture_v2", stream, 2)
    d.fails(CAPTURE_UNSUPPORTED, "cuMemPrefetchAsync", ptr, c.c_size_t(GRANULE), d.device, stream)
    graph = c.c_void_p()
    d.fails(901, "cuStreamEndCapture", stream, c.byref(graph))
    d.ok("cuMemPrefetchAsync", ptr, c.c_size_t(GRANULE), d.device, stream)


@case
def a_kernel_past_its_end_faults(d: Driver) -> None:
    ptr = managed(d, 4096)
    store = d.function(d.module(), "store4")
    d.launch(store, Params(c.c_uint64(ptr.value + 4092)))
    d.sync()
    assert view(ptr, 1024, "u4")[1023] == 1
    d.launch(store, Params(c.c_uint64(ptr.value + 4 * GRANULE)))
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def kernels_reach_pinned_memory(d: Driver) -> None:
    count = 10000
    pinned = d.handle("cuMemHostAlloc", c.c_size_t(8 * count), 0)
    source, to = c.c_uint64(pinned.value or 0), c.c_uint64((pinned.value or 0) + 4 * count)
    view(source, count)[:] = np.arange(count, dtype="f4")
    for _ in range(2):
        add1(d, source, to, count)
        assert (view(to, count) == view(source, count) + 1).all()
        view(source, count)[:] = view(to, count)
    d.ok("cuMemFreeHost", pinned)


@case
def kernels_do_not_reach_over_the_end_of_pinned_memory(d: Driver) -> None:
    pinned = d.handle("cuMemHostAlloc", c.c_size_t(8194), 0)
    store = d.function(d.module(), "store4")
    d.launch(store, Params(c.c_uint64((pinned.value or 0) + 8188)))
    d.sync()
    d.launch(store, Params(c.c_uint64((pinned.value or 0) + 8192)))  # half of it lies beyond
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def twins_take_the_threads_own_stream(d: Driver) -> None:
    ptr = managed(d, 2 * GRANULE)
    dptrs, sizes = (c.c_uint64 * 1)(ptr.value), (c.c_size_t * 1)(GRANULE)
    args = (dptrs, sizes, c.c_size_t(1), c.c_uint64(0), None)
    d.fails(INVALID_VALUE, "cuMemDiscardBatchAsync", *args)
    d.ok("cuMemDiscardBatchAsync_ptsz", *args)
    d.ok("cuMemPrefetchAsync_ptsz", ptr, c.c_size_t(GRANULE), d.device, None)
    d.sync()


if __name__ == "__main__":
    main()
