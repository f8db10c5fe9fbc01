# SPDX-License-Identifier: Apache-2.0
"""Functions that no wire carries, since clients answer them themselves: called by rows of ours."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

from harp.trace.mapping import Unknown, World
from harp.trace.records import Call
from harp.trace.report import MEMORY, Made

__all__ = ["BARE", "LOOK_UPS", "make_bare"]

#: what answers addresses of the program's own, or constants
LOOK_UPS = ("cuGetProcAddress", "cuGetExportTable", "cuGetErrorName", "cuGetErrorString")

#: what each parameter is: a number (n), a context (c), host or device memory (m), memory of the
#: program's own of the call's size (o), or where the answer goes: a context (C), memory (M), or
#: anything (X)
BARE = {
    "cuCtxPushCurrent": "c",
    "cuCtxPopCurrent": "C",
    "cuCtxGetCurrent": "C",
    "cuMemHostAlloc": "Mnn",
    "cuMemAllocHost": "Mn",
    "cuMemFreeHost": "m",
    "cuMemHostRegister": "onn",
    "cuMemHostUnregister": "m",
    "cuMemHostGetDevicePointer": "Mmn",
    "cuMemHostGetFlags": "Xm",
    "cuMemAllocManaged": "Mnn",
    "cuMemAllocPitch": "MXnnn",
    "cuProfilerStart": "",
    "cuProfilerStop": "",
}


def make_bare(fn: int, row: str, call: Call, world: World) -> Callable[[], Made]:
    """How to make a call of bare slots. Raises Unknown."""
    slots = call.slots
    if len(slots) < len(row):
        raise Unknown("its arguments are not in the trace")
    out = ctypes.c_uint64()
    room = (ctypes.c_uint64 * 8)()
    args: list[int] = []
    for what, slot in zip(row, slots, strict=False):
        if what == "n":
            args.append(slot)
        elif what == "c":
            args.append(world.handle("CUcontext", slot))
        elif what == "m":
            args.append(world.address(slot))
        elif what == "o":
            args.append(_own(slot, call, world))
        elif slot == 0:
            args.append(0)
        else:
            args.append(ctypes.addressof(room if what == "X" else out))
    call_it = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * len(args))(fn)
    learns = "CUcontext" if "C" in row else MEMORY if "M" in row else ""

    def work() -> Made:
        begin_ns = time.monotonic_ns()
        result = call_it(*args)
        took_ns = time.monotonic_ns() - begin_ns
        return Made(
            result=result,
            took_ns=took_ns,
            made=out.value,
            made_kind=learns,
            transfers={-1: room},  # lives as long as the answer is looked at
        )

    return work


def _own(was: int, call: Call, world: World) -> int:
    """Memory of ours for memory of the program's."""
    size = max(call.size, call.slots[1])  # the driver is told the latter
    if size > 1 << 34:
        raise Unknown("it registers more host memory than a replay takes")
    block = (ctypes.c_char * (size + 4096))()
    world.kept[was] = block
    now = (ctypes.addressof(block) + 4095) // 4096 * 4096
    world.memory.add(was, size, now)
    return now
