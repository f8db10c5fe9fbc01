# SPDX-License-Identifier: Apache-2.0
"""What only a real driver can tell of memory: `gpu_facts.py WHAT`, bare; one JSON line.

Nothing is asserted here. A fact that cannot be had is kept as the driver's code; what the software
GPU and the ledger assume is compared with these by who reads the results.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from gpu_client import HEAD, alloc, context, cuda, do, fetch, handle, kernel, launch, say

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
RUNNING, LOCKED, CHECKPOINTED, FAILED = range(4)

LOCAL = (
    HEAD
    + """
.visible .entry deep(.param .u64 out, .param .u32 at)
{
    .local .align 4 .b8 frame[FRAME];
    .reg .b32 %r<4>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [at];
    mov.u64 %d2, frame;
    cvt.u64.u32 %d3, %r1;
    add.s64 %d2, %d2, %d3;
    st.local.u32 [%d2], %r1;
    ld.local.u32 %r2, [%d2];
    st.global.u32 [%d1], %r2;
    ret;
}
"""
)
GLOBAL = HEAD + ".visible .global .align 16 .b8 big[BYTES];\n.visible .entry none() { ret; }\n"


def free_bytes() -> int:
    """Free memory of the device, as the driver says."""
    free, total = c.c_size_t(), c.c_size_t()
    do("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    return free.value


@contextlib.contextmanager
def taken(into: dict[str, Any], name: str) -> Iterator[None]:
    """Bytes that left the device meanwhile."""
    before = free_bytes()
    yield
    into[name] = before - free_bytes()


def code(name: str, *args: object) -> int:
    """The driver's answer."""
    return int(getattr(cuda, name)(*args))


def sizes() -> dict[str, Any]:
    """Device bytes behind allocations of many sizes, by what cuMemGetInfo loses."""
    context()
    alloc(1)
    found: dict[str, Any] = {}
    for size, count in ((1, 5000), (512, 5000), (64 * KIB, 100), (MIB, 10), (MIB + 1, 10),
                        (2 * MIB, 4), (2 * MIB + 1, 4), (3 * MIB, 4), (100 * MIB, 1)):  # fmt: skip
        with taken(found, f"{count} of {size}"):
            held = [alloc(size) for _ in range(count)]
        with taken(found, f"{count} of {size} freed"):
            for pointer in held:
                do("cuMemFree_v2", pointer)
    return found


class Array3D(c.Structure):
    _fields_ = (
        *((n, c.c_size_t) for n in ("width", "height", "depth")),
        ("format", c.c_int), ("channels", c.c_uint), ("flags", c.c_uint),
    )  # fmt: skip


class Requirements(c.Structure):
    _fields_ = (("size", c.c_size_t), ("alignment", c.c_size_t), ("reserved", c.c_uint * 4))


def arrays() -> dict[str, Any]:
    """What arrays take, and what the driver says they would."""
    context()
    device, found = c.c_int(), {}
    for shape in ((1024, 1024, 0), (1000, 1000, 0), (1 << 20, 0, 0), (100, 100, 100), (17, 0, 0)):
        for form, channels in ((0x20, 1), (0x20, 4), (0x01, 1), (0x10, 2)):
            told = Array3D(*shape, form, channels, 0)
            out, needs = c.c_void_p(), Requirements()
            name = f"{shape} format {form:#x} x{channels}"
            with taken(found, name):
                made = code("cuArray3DCreate_v2", c.byref(out), c.byref(told))
            asked = code("cuArrayGetMemoryRequirements", c.byref(needs), out, device)
            found[f"{name} says"] = [made, asked, needs.size, needs.alignment]
            if made == 0:
                do("cuArrayDestroy", out)
    told, out = Array3D(1024, 1024, 0, 0x20, 4, 0), c.c_void_p()
    with taken(found, "mipmaps of 1024x1024x4xf32, 11 levels"):
        do("cuMipmappedArrayCreate", c.byref(out), c.byref(told), 11)
    return found


def pools() -> dict[str, Any]:
    """How pools grow and shrink: reserved and used bytes beside what the device lost."""
    context()
    pool, found, before = c.c_void_p(), [], free_bytes()
    do("cuDeviceGetDefaultMemPool", c.byref(pool), 0)

    def look(what: str) -> None:
        reserved, used = c.c_uint64(), c.c_uint64()
        do("cuMemPoolGetAttribute", pool, 5, c.byref(reserved))
        do("cuMemPoolGetAttribute", pool, 7, c.byref(used))
        found.append([what, reserved.value, used.value, before - free_bytes()])

    def take(size: int) -> c.c_uint64:
        out = c.c_uint64()
        do("cuMemAllocAsync", c.byref(out), c.c_size_t(size), None)
        look(f"alloc {size}")
        return out

    held = [take(size) for size in (1, KIB, MIB, 31 * MIB, 33 * MIB, 200 * MIB)]
    for pointer in held:
        do("cuMemFreeAsync", pointer, None)
    look("freed")
    do("cuCtxSynchronize")
    look("synchronised")
    do("cuMemPoolTrimTo", pool, c.c_size_t(0))
    look("trimmed")
    limit = c.c_uint64(1 << 40)
    do("cuMemPoolSetAttribute", pool, 4, c.byref(limit))
    do("cuMemFreeAsync", take(100 * MIB), None)
    do("cuCtxSynchronize")
    look("freed below the threshold, synchronised")
    return {"steps": found}


def graphs() -> dict[str, Any]:
    """Graph memory: when it is taken, how much, when it goes."""
    context()
    stream, graph, ready = handle("cuStreamCreate", 1), c.c_void_p(), c.c_void_p()
    found, before, device = [], free_bytes(), c.c_int()

    def look(what: str) -> None:
        values = []
        for attribute in (0, 2):
            out = c.c_uint64()
            do("cuDeviceGetGraphMemAttribute", device, attribute, c.byref(out))
            values.append(out.value)
        found.append([what, *values, before - free_bytes()])

    pointers = (c.c_uint64(), c.c_uint64())
    do("cuStreamBeginCapture_v2", stream, 2)
    for pointer, size in zip(pointers, (5 * MIB, 50 * MIB), strict=True):
        do("cuMemAllocAsync", c.byref(pointer), c.c_size_t(size), stream)
        do("cuMemsetD8Async", pointer, 1, c.c_size_t(size), stream)
    for pointer in pointers:
        do("cuMemFreeAsync", pointer, stream)
    do("cuStreamEndCapture", stream, c.byref(graph))
    look("captured 5 and 50 MiB")
    do("cuGraphInstantiateWithFlags", c.byref(ready), graph, c.c_uint64(0))
    look("instantiated")
    do("cuGraphUpload", ready, stream)
    do("cuStreamSynchronize", stream)
    look("uploaded")
    do("cuGraphLaunch", ready, stream)
    do("cuStreamSynchronize", stream)
    look("launched")
    do("cuGraphExecDestroy", ready)
    look("destroyed")
    do("cuDeviceGraphMemTrim", device)
    look("trimmed")
    return {"steps [used, reserved, lost]": found}


def code_memory() -> dict[str, Any]:
    """What modules, limits and local memory take."""
    context()
    out, found = alloc(4), {}
    do("cuCtxSynchronize")
    for size in (64 * KIB, 64 * MIB):
        module = c.c_void_p()
        with taken(found, f"a module with a variable of {size}"):
            text = GLOBAL.replace("BYTES", str(size)).encode()
            do("cuModuleLoadData", c.byref(module), text)
        with taken(found, f"a module with a variable of {size}, unloaded"):
            do("cuModuleUnload", module)
    for frame in (1 * KIB, 16 * KIB, 64 * KIB):
        with taken(found, f"loading a kernel with a frame of {frame}"):
            function = kernel(LOCAL.replace("FRAME", str(frame)), "deep")
        with taken(found, f"launching it, frame {frame}"):
            launch(function, 1, 1, out, c.c_uint32(0))
            do("cuCtxSynchronize")
    for name, limit, value in (
        ("stack 64 KiB", 0, 64 * KIB), ("stack 1 KiB", 0, KIB), ("printf 64 MiB", 1, 64 * MIB),
        ("printf 1 MiB", 1, MIB), ("heap 512 MiB", 2, 512 * MIB), ("heap 8 MiB", 2, 8 * MIB),
        ("pending launches 65536", 4, 65536),
    ):  # fmt: skip
        with taken(found, name):
            found[f"{name}: code"] = code("cuCtxSetLimit", limit, c.c_size_t(value))
        with taken(found, f"{name}, after a launch"):
            launch(function, 1, 1, out, c.c_uint32(0))
            do("cuCtxSynchronize")
    return found


def host_memory() -> dict[str, Any]:
    """What pinned and managed memory take of the device."""
    context()
    found: dict[str, Any] = {}
    with taken(found, "256 MiB pinned"):
        handle("cuMemHostAlloc", c.c_size_t(256 * MIB), 0)
    pointer = c.c_uint64()
    with taken(found, "256 MiB managed"):
        do("cuMemAllocManaged", c.byref(pointer), c.c_size_t(256 * MIB), 1)
    with taken(found, "written by the host"):
        c.memset(pointer.value, 1, 256 * MIB)
    with taken(found, "filled by the device"):
        do("cuMemsetD8_v2", pointer, 2, c.c_size_t(256 * MIB))
        do("cuCtxSynchronize")
    with taken(found, "read by the host"):
        c.string_at(pointer.value, 256 * MIB)
    return found


class Location(c.Structure):
    _fields_ = (("type", c.c_int), ("id", c.c_int))


class Physical(c.Structure):
    """CUmemAllocationProp."""

    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("type", c.c_int), ("handles", c.c_int), ("location", Location), ("windows", c.c_void_p),
        ("flags", c.c_ubyte * 8),
    ]  # fmt: skip


class Access(c.Structure):
    _fields_ = (("location", Location), ("flags", c.c_int))


def vmm() -> dict[str, Any]:
    """Granularity, what its calls cost in us, and how fast pinned copies are: medians of 5."""
    context()
    prop = Physical(type=1, location=Location(1, 0))
    access, size, found = Access(Location(1, 0), 3), c.c_size_t(), {}
    for option, name in ((0, "minimum"), (1, "recommended")):
        do("cuMemGetAllocationGranularity", c.byref(size), c.byref(prop), option)
        found[f"granularity {name}"] = size.value

    def timed(into: list[float], name: str, *args: object) -> None:
        begin = time.perf_counter_ns()
        do(name, *args)
        into.append((time.perf_counter_ns() - begin) / 1000)

    for bytes_ in (2 * MIB, 32 * MIB, 256 * MIB, GIB):
        spent: dict[str, list[float]] = {}
        for _ in range(5):
            address, physical, n = c.c_uint64(), c.c_uint64(), c.c_size_t(bytes_)
            none = c.c_uint64(0)
            for name, args in (
                ("cuMemAddressReserve", (c.byref(address), n, c.c_size_t(0), none, none)),
                ("cuMemCreate", (c.byref(physical), n, c.byref(prop), none)),
                ("cuMemMap", (address, n, c.c_size_t(0), physical, none)),
                ("cuMemSetAccess", (address, n, c.byref(access), c.c_size_t(1))),
                ("cuMemUnmap", (address, n)),
                ("cuMemRelease", (physical,)),
                ("cuMemAddressFree", (address, n)),
            ):  # fmt: skip
                timed(spent.setdefault(name, []), name, *args)
        found[f"{bytes_ // MIB} MiB us"] = {k: sorted(v)[2] for k, v in spent.items()}
    host, device = handle("cuMemHostAlloc", c.c_size_t(GIB), 0), alloc(GIB)
    for name, args in (
        ("cuMemcpyDtoH_v2", (host, device, c.c_size_t(GIB))),
        ("cuMemcpyHtoD_v2", (device, host, c.c_size_t(GIB))),
    ):
        spent_us: list[float] = []
        for _ in range(5):
            timed(spent_us, name, *args)
        found[f"{name} GiB/s"] = 1e6 / sorted(spent_us)[2]
    return found


def alloc_cost() -> dict[str, Any]:
    """us of cuMemAlloc and cuMemFree of 1 MiB together, with 0 and with 500 live blocks."""
    context()
    found = {}
    for live in (0, 500):
        held = [alloc(MIB) for _ in range(live)]
        spent = []
        pointer, size = c.c_uint64(), c.c_size_t(MIB)
        for _ in range(3000):
            begin = time.perf_counter_ns()
            cuda.cuMemAlloc_v2(c.byref(pointer), size)
            cuda.cuMemFree_v2(pointer)
            spent.append((time.perf_counter_ns() - begin) / 1000)
        spent.sort()
        found[f"live {live}: p50, p99"] = [spent[len(spent) // 2], spent[len(spent) * 99 // 100]]
        for one in held:
            do("cuMemFree_v2", one)
    return found


# --- checkpoint -----------------------------------------------------------------------------------


class Lock(c.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("timeout_ms", c.c_uint),
        ("reserved", c.c_char * 60),
    ]


class Restore(c.Structure):
    _fields_: ClassVar[list[tuple[str, Any]]] = [
        ("pairs", c.c_void_p), ("count", c.c_uint), ("reserved", c.c_char * 44),
    ]  # fmt: skip


def frozen(kind: str) -> None:
    """The process that is checkpointed: holds memory, says its digest whenever asked."""
    context()
    size = 2 * GIB
    pointer, more = alloc(size), c.c_uint64()
    do("cuMemsetD32_v2", pointer, 0x5EED, c.c_size_t(size // 4))
    if kind == "managed":
        do("cuMemAllocManaged", c.byref(more), c.c_size_t(64 * MIB), 1)
        do("cuMemsetD8_v2", more, 3, c.c_size_t(64 * MIB))
    if kind == "ipc":
        do("cuIpcGetMemHandle", c.create_string_buffer(64), pointer)
    if kind == "long":
        from gpu_client import WORK

        launch(kernel(WORK, "busy"), 1, 1, c.c_uint32(1 << 31), alloc(4))
    say(ready=True)
    for _ in sys.stdin:
        begin = time.monotonic()
        digest = hashlib.sha256(fetch(pointer, 64 * MIB)).hexdigest()
        say(digest=digest, pointer=pointer.value, seconds=time.monotonic() - begin)


def checkpoint() -> dict[str, Any]:
    """Lock, checkpoint, restore, unlock of a child: codes, states, times, memory."""
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    found: dict[str, Any] = {"uid": os.getuid()}
    lock, short = Lock(timeout_ms=10_000), Lock(timeout_ms=100)

    def state(pid: int) -> list[int]:
        out = c.c_int(-1)
        return [code("cuCheckpointProcessGetState", pid, c.byref(out)), out.value]

    def step(into: list[Any], what: str, pid: int, *args: object) -> None:
        begin = time.monotonic()
        answer = code(f"cuCheckpointProcess{what}", pid, *args)
        spent = time.monotonic() - begin
        used = pynvml.nvmlDeviceGetMemoryInfo(gpu).used
        listed = [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)]
        into.append([what, answer, state(pid), round(spent, 4), used, pid in listed])

    @contextlib.contextmanager
    def child(kind: str) -> Iterator[Callable[[], Any]]:
        one = subprocess.Popen(
            [sys.executable, __file__, "frozen", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdout.readline()

        def ask() -> Any:
            assert one.stdin is not None
            assert one.stdout is not None
            one.stdin.write("?\n")
            one.stdin.flush()
            return json.loads(one.stdout.readline())

        ask.pid = one.pid  # type: ignore[attr-defined]
        try:
            yield ask
        finally:
            one.kill()
            one.communicate()

    found["before cuInit: state of an unknown pid"] = state(1 << 21)
    do("cuInit", 0)
    found["unknown pid"] = state(1 << 21)
    found["oneself"] = state(os.getpid())
    found["init's process (no CUDA)"] = state(1)
    for kind in ("plain", "managed", "ipc"):
        with child(kind) as ask:
            pid, steps = ask.pid, []  # type: ignore[attr-defined]
            steps.append(["start", state(pid), pynvml.nvmlDeviceGetMemoryInfo(gpu).used])
            first = ask()
            if kind == "plain":
                step(steps, "Checkpoint", pid, None)
                step(steps, "Unlock", pid, None)
                step(steps, "Restore", pid, None)
            step(steps, "Lock", pid, c.byref(lock))
            if kind == "plain":
                step(steps, "Lock", pid, c.byref(lock))
                tid = c.c_int()
                answer = code("cuCheckpointProcessGetRestoreThreadId", pid, c.byref(tid))
                steps.append(["restore thread", answer, tid.value - pid])
            step(steps, "Checkpoint", pid, None)
            if kind == "plain":
                step(steps, "Unlock", pid, None)
            step(steps, "Restore", pid, None)
            step(steps, "Unlock", pid, None)
            if state(pid)[1] == RUNNING:
                again = ask()
                steps.append(
                    [
                        "same",
                        again["digest"] == first["digest"],
                        again["pointer"] == first["pointer"],
                    ]
                )
            found[kind] = steps
    with child("long") as ask:
        steps = []
        step(steps, "Lock", ask.pid, c.byref(short))  # type: ignore[attr-defined]
        found["a long kernel runs, 100 ms"] = steps
    with child("plain") as ask:  # a restore for which there is no memory
        pid, steps = ask.pid, []  # type: ignore[attr-defined]
        step(steps, "Lock", pid, c.byref(lock))
        step(steps, "Checkpoint", pid, None)
        context()
        alloc(free_bytes() - GIB)
        step(steps, "Restore", pid, None)
        step(steps, "Unlock", pid, None)
        found["restore on a full device"] = steps
    return found


if __name__ == "__main__":
    if sys.argv[1] == "frozen":
        frozen(sys.argv[2])
    else:
        facts = (
            sizes,
            arrays,
            pools,
            graphs,
            code_memory,
            host_memory,
            vmm,
            alloc_cost,
            checkpoint,
        )
        print(json.dumps({f.__name__: f for f in facts}[sys.argv[1]]()))
