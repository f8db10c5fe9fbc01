# SPDX-License-Identifier: Apache-2.0
"""The CUDA programs of these tests: `gpu_client.py WHAT [ARGUMENT]...`.

The driver API through ctypes and PTX as text; they know nothing of HARP, but for a text of PTX that
is shared. Each prints JSON lines.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harp.probe.ptx import GAPS

GRANULE = 2 << 20
OUT_OF_MEMORY = 2
#: the interface that libcudart asks for; its id is all that is used of it
CUDART_TABLE = bytes.fromhex("6bd5fb6c5bf4e74a8987d93912fd9df9")

HEAD = ".version 7.0\n.target sm_75\n.address_size 64\n"
SLEEP_HEAD = ".version 7.8\n.target sm_80\n.address_size 64\n"

#: c[i] = a[i] + b[i]
VECTOR_ADD = (
    HEAD
    + """
.visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<5>;
    .reg .f32 %f<4>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.param.u64 %d3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra DONE;
    mul.wide.u32 %d4, %r2, 4;
    add.s64 %d5, %d1, %d4;
    add.s64 %d6, %d2, %d4;
    add.s64 %d7, %d3, %d4;
    ld.global.f32 %f1, [%d5];
    ld.global.f32 %f2, [%d6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
DONE:
    ret;
}
"""
)

#: arithmetic only: it gets on while it executes, and not while another process has the device
WORK = (
    HEAD
    + """
.visible .entry busy(.param .u32 rounds, .param .u64 out)
{
    .reg .pred %p;
    .reg .b32 %r<4>;
    .reg .b64 %d;
    ld.param.u32 %r1, [rounds];
    ld.param.u64 %d, [out];
    mov.u32 %r2, 1;
AGAIN:
    mad.lo.s32 %r2, %r2, 1664525, %r1;
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p, %r1, 0;
    @%p bra AGAIN;
    st.global.u32 [%d], %r2;
    ret;
}
"""
)

#: the same with sleeping for working: for the software GPU, where arithmetic costs the CPU
SLEEP = (
    SLEEP_HEAD
    + """
.visible .entry busy(.param .u32 rounds, .param .u64 out)
{
    .reg .pred %p;
    .reg .b32 %r<3>;
    .reg .b64 %d;
    ld.param.u32 %r1, [rounds];
    ld.param.u64 %d, [out];
AGAIN:
    nanosleep.u32 50000;
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p, %r1, 0;
    @%p bra AGAIN;
    st.global.u32 [%d], %r1;
    ret;
}
"""
)

cuda = ctypes.CDLL("libcuda.so.1")


def say(**fact: object) -> None:
    """A JSON line."""
    print(json.dumps(fact), flush=True)


def do(name: str, *args: object) -> None:
    """Calls the driver and insists on success."""
    status = getattr(cuda, name)(*args)
    if status != 0:
        sys.exit(f"{name}: {status}")


def handle(name: str, *args: object) -> ctypes.c_void_p:
    """Calls a function whose first argument is where a handle goes."""
    out = ctypes.c_void_p()
    do(name, ctypes.byref(out), *args)
    return out


def context() -> None:
    """The first device's primary context becomes current."""
    device = ctypes.c_int()
    do("cuInit", 0)
    do("cuDeviceGet", ctypes.byref(device), 0)
    do("cuCtxSetCurrent", handle("cuDevicePrimaryCtxRetain", device))


def kernel(ptx: str, name: str) -> ctypes.c_void_p:
    """A kernel of a module of PTX text."""
    module = handle("cuModuleLoadData", ptx.encode())
    return handle("cuModuleGetFunction", module, name.encode())


def alloc(size_bytes: int) -> ctypes.c_uint64:
    """Device memory."""
    pointer = ctypes.c_uint64()
    do("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
    return pointer


def launch(
    function: ctypes.c_void_p, grid: int, block: int, *values: ctypes._SimpleCData[int]
) -> None:
    """One kernel on the default stream."""
    params = (ctypes.c_void_p * len(values))(
        *(ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values)
    )
    do("cuLaunchKernel", function, grid, 1, 1, block, 1, 1, 0, None, params, None)


def fetch(pointer: ctypes.c_uint64, size_bytes: int) -> bytes:
    """Device memory as bytes."""
    host = ctypes.create_string_buffer(size_bytes)
    do("cuMemcpyDtoH_v2", host, pointer, ctypes.c_size_t(size_bytes))
    return host.raw


def memory() -> None:
    """What there is by both libraries, whether it can be had, and what one granule more says."""
    import pynvml

    context()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    do("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    pynvml.nvmlInit()
    seen = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
    pointer, more = ctypes.c_uint64(), ctypes.c_uint64()
    all_code = cuda.cuMemAlloc_v2(ctypes.byref(pointer), free)
    more_code = cuda.cuMemAlloc_v2(ctypes.byref(more), ctypes.c_size_t(GRANULE))
    after = ctypes.c_size_t()
    do("cuMemGetInfo_v2", ctypes.byref(after), ctypes.byref(total))
    say(
        total=total.value,
        free=free.value,
        nvml_total=seen.total,
        nvml_free=seen.free,
        all_code=all_code,
        more_code=more_code,
        free_after=after.value,
    )


def output() -> None:
    """Everything this program computes, as digests: no pointer, no time, no name."""
    context()
    count = 1 << 18
    a = struct.pack(f"<{count}f", *(i * 0.37 for i in range(count)))
    b = struct.pack(f"<{count}f", *(1e6 / (i + 1) for i in range(count)))
    size = ctypes.c_size_t(4 * count)
    left, right, out = alloc(4 * count), alloc(4 * count), alloc(4 * count)
    do("cuMemcpyHtoD_v2", left, a, size)
    do("cuMemcpyHtoD_v2", right, b, size)
    add = kernel(VECTOR_ADD, "vector_add")
    n = ctypes.c_uint32(count)
    for step in range(20):
        launch(add, count // 256, 256, left, right, out, n)
        if step % 5 == 0:
            say(step=step, sha256=hashlib.sha256(fetch(out, 4 * count)).hexdigest())
        do("cuMemcpyDtoD_v2", left, out, size)
    do("cuMemsetD32_v2", out, 0x12345678, ctypes.c_size_t(count // 2))
    say(memset=hashlib.sha256(fetch(out, 4 * count)).hexdigest())
    say(bad=cuda.cuMemFree_v2(ctypes.c_uint64(1)), query=cuda.cuStreamQuery(None))
    for pointer in (left, right, out):
        do("cuMemFree_v2", pointer)


def busy_launcher(kind: str, rounds: int) -> Callable[[], None]:
    """A function that launches the saturating kernel once."""
    function = kernel(SLEEP if kind == "sleep" else WORK, "busy")
    out, wanted = alloc(4), ctypes.c_uint32(rounds)
    return lambda: launch(function, 1, 1, wanted, out)


def alone(kind: str, target_us: str) -> None:
    """How many rounds make a kernel of about target_us, and how long it really takes."""
    context()
    rounds = max(1, int(target_us) // 50) if kind == "sleep" else 10_000
    begin, end = handle("cuEventCreate", 0), handle("cuEventCreate", 0)
    spent_us = 0.0
    for _ in range(4):  # clocks rise at first
        once = busy_launcher(kind, rounds)
        once()
        do("cuEventRecord", begin, None)
        for _ in range(500):
            once()
        do("cuEventRecord", end, None)
        do("cuEventSynchronize", end)
        spent_ms = ctypes.c_float()
        do("cuEventElapsedTime", ctypes.byref(spent_ms), begin, end)
        spent_us = spent_ms.value * 1000 / 500
        measured = rounds
        if kind != "sleep":
            rounds = max(1, round(rounds * int(target_us) / spent_us))
    say(rounds=measured, kernel_us=spent_us)


def busy(kind: str, rounds: str) -> None:
    """Saturates the device; says how many launches have completed, until it is killed."""
    context()
    once = busy_launcher(kind, int(rounds))
    events = [handle("cuEventCreate", 2) for _ in range(4)]
    done, batch, told_s = 0, 16, 0.0
    for turn in range(1 << 62):
        event = events[turn % len(events)]
        if turn >= len(events):
            do("cuEventSynchronize", event)
            done += batch
        for _ in range(batch):
            once()
        do("cuEventRecord", event, None)
        if (now_s := time.monotonic()) - told_s > 0.1:
            say(t=now_s, done=done)
            told_s = now_s


def slices(span_ms: str, start_s: str) -> None:
    """Lengths of the times this process had the device, and had not, in microseconds."""
    context()
    most = 4096
    out = alloc(8 + 16 * most)
    do("cuMemsetD8_v2", out, 0, ctypes.c_size_t(8 + 16 * most))
    function = kernel(GAPS, "gaps")
    say(ready=True)
    time.sleep(max(0.0, float(start_s) - time.monotonic()))
    span, least = ctypes.c_uint64(int(span_ms) * 1_000_000), ctypes.c_uint64(100_000)
    launch(function, 1, 1, span, least, out, ctypes.c_uint32(most))
    do("cuCtxSynchronize")
    raw = fetch(out, 8 + 16 * most)
    count = min(most, struct.unpack_from("<I", raw)[0])
    pairs = [struct.unpack_from("<QQ", raw, 8 + 16 * i) for i in range(count)]
    away = [(b - a) / 1000 for a, b in pairs]
    had = [(pairs[i + 1][0] - pairs[i][1]) / 1000 for i in range(count - 1)]
    say(away_us=away, had_us=had)


def hold() -> None:
    """A context and nothing else, until input ends."""
    context()
    say(ready=True)
    sys.stdin.read()


def table() -> None:
    """Where the driver's private table lies: code, file, offset in its mapping, first word."""
    do("cuInit", 0)
    pointer = ctypes.c_void_p()
    code = cuda.cuGetExportTable(ctypes.byref(pointer), CUDART_TABLE)
    if code != 0 or not pointer.value:
        say(code=code, file=None, offset=None, size=None)
        return
    base: dict[str, int] = {}
    found = None
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, _, *name = line.split(maxsplit=5)
        low, high = (int(x, 16) for x in span.split("-"))
        if name:
            base.setdefault(name[0], low)
        if low <= pointer.value < high:
            found = name[0] if name else ""
    size = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64))[0]
    offset = pointer.value - base[found] if found in base else None
    say(code=code, file=Path(found).name if found else None, offset=offset, size=size)


if __name__ == "__main__":
    {f.__name__: f for f in (memory, output, alone, busy, slices, hold, table)}[sys.argv[1]](
        *sys.argv[2:]
    )
