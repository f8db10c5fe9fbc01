# SPDX-License-Identifier: Apache-2.0
"""Memory is refused at each place in turn, and afterwards all of it is there again.

One program uses every kind of memory, a context of its own, a module, a graph, an array. It gives
back what it got; what it did not get it goes without. cuMemGetInfo, NVML and the engine's ledger
must then say what they said before.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from soft_mod_cases_array import Desc
from soft_mod_cases_vmm import Access, Prop
from soft_mod_driver import Driver, Params, case, main

GRANULE = 2 << 20
OUT_OF_MEMORY = 2
NATIVE = Path(os.environ.get("HARP_NATIVE_DIR", "."))


class Program:
    """What is got is given back by leave(), the latest first."""

    def __init__(self, d: Driver) -> None:
        self.d = d
        self.undo: list[tuple[str, list[Any]]] = []
        self.refused = 0

    def got(self, name: str, *args: object) -> bool:
        result = self.d.call(name, *args)
        assert result in {0, OUT_OF_MEMORY}, (name, result)
        self.refused += result != 0
        return result == 0

    def later(self, name: str, *args: Any) -> None:
        # by value: the variables are used again
        kept = [type(arg)(arg.value) if hasattr(arg, "value") else arg for arg in args]
        self.undo.append((name, kept))

    def leave(self) -> None:
        while self.undo:
            name, args = self.undo.pop()
            self.d.ok(name, *args)

    def context(self) -> None:
        ctx = c.c_void_p()
        if self.got("cuCtxCreate_v2", c.byref(ctx), 0, self.d.device):
            self.later("cuCtxDestroy_v2", ctx)

    def memory(self) -> None:
        ptr, pitch, host = c.c_uint64(), c.c_size_t(), c.c_void_p()
        for size in (100, 3 << 20):
            if self.got("cuMemAlloc_v2", c.byref(ptr), c.c_size_t(size)):
                self.later("cuMemFree_v2", ptr)
                self.got("cuMemsetD8Async", ptr, 1, c.c_size_t(size), None)
        wide, high = c.c_size_t(5000), c.c_size_t(300)
        if self.got("cuMemAllocPitch_v2", c.byref(ptr), c.byref(pitch), wide, high, 4):
            self.later("cuMemFree_v2", ptr)
        if self.got("cuMemHostAlloc", c.byref(host), c.c_size_t(4096), 0):
            self.later("cuMemFreeHost", host)

    def managed(self) -> None:
        ptr, size = c.c_uint64(), c.c_size_t(5 * GRANULE)
        if self.got("cuMemAllocManaged", c.byref(ptr), size, 1):
            self.later("cuMemFree_v2", ptr)
            self.got("cuMemPrefetchAsync", ptr, size, self.d.device, None)
            self.got("cuMemsetD8Async", ptr, 1, size, None)

    def array(self) -> None:
        handle = c.c_void_p()
        shape = Desc(width=700, height=500, format=0x20, channels=2)
        if self.got("cuArray3DCreate_v2", c.byref(handle), c.byref(shape)):
            self.later("cuArrayDestroy", handle)
        if self.got("cuMipmappedArrayCreate", c.byref(handle), c.byref(shape), 3):
            self.later("cuMipmappedArrayDestroy", handle)

    def mapped(self, handle_types: int) -> None:
        at, handle, size = c.c_uint64(), c.c_uint64(), c.c_size_t(2 * GRANULE)
        prop = Prop(type=1, where=1, id=self.d.device.value, handle_types=handle_types)
        access = Access(1, self.d.device.value, 3)
        if not self.got("cuMemAddressReserve", c.byref(at), size, c.c_size_t(0), c.c_uint64(0), 0):
            return
        self.later("cuMemAddressFree", at, size)
        if not self.got("cuMemCreate", c.byref(handle), size, c.byref(prop), c.c_uint64(0)):
            return
        self.later("cuMemRelease", handle)
        if self.got("cuMemMap", at, size, c.c_size_t(0), handle, c.c_uint64(0)):
            self.later("cuMemUnmap", at, size)
            if self.got("cuMemSetAccess", at, size, c.byref(access), c.c_size_t(1)):
                self.got("cuMemsetD8Async", at, 1, size, None)

    def code(self) -> None:
        module, function, stream = c.c_void_p(), c.c_void_p(), c.c_void_p()
        graph, run, ptr = c.c_void_p(), c.c_void_p(), c.c_uint64()
        if not self.got("cuModuleLoadData", c.byref(module), SAXPY):
            return
        self.later("cuModuleUnload", module)
        if not self.got("cuModuleGetFunction", c.byref(function), module, b"spot"):
            return
        if not self.got("cuMemAlloc_v2", c.byref(ptr), c.c_size_t(4096)):
            return
        self.later("cuMemFree_v2", ptr)
        self.d.ok("cuStreamCreate", c.byref(stream), 1)
        self.later("cuStreamDestroy_v2", stream)
        self.d.ok("cuStreamBeginCapture_v2", stream, 2)
        self.got("cuMemsetD8Async", ptr, 1, c.c_size_t(4096), stream)
        self.d.launch(function, Params(ptr), stream=stream)
        self.d.ok("cuStreamEndCapture", stream, c.byref(graph))
        self.later("cuGraphDestroy", graph)
        if self.got("cuGraphInstantiateWithFlags", c.byref(run), graph, c.c_uint64(0)):
            self.later("cuGraphExecDestroy", run)
            self.got("cuGraphLaunch", run, stream)
            self.got("cuStreamSynchronize", stream)

    def limits(self) -> None:
        if self.got("cuCtxSetLimit", 2, c.c_size_t(40 << 20)):
            self.later("cuCtxSetLimit", 2, c.c_size_t(8 << 20))

    def run(self) -> int:
        """How many calls were refused."""
        self.context()
        self.memory()
        self.managed()
        self.array()
        self.mapped(0)
        self.mapped(1)
        self.code()
        self.limits()
        self.got("cuCtxSynchronize")
        self.leave()
        self.d.sync()
        return self.refused


SAXPY = b""".version 8.0
.target sm_75
.address_size 64
.visible .global .align 4 .b8 table[3000000];
.visible .entry spot(.param .u64 p)
{
    .reg .b64 %d0;
    ld.param.u64 %d0, [p];
    st.global.u32 [%d0], 7;
    ret;
}
"""


def seen(d: Driver) -> tuple[int, ...]:
    """Used bytes by the driver, by NVML, by the ledger."""
    free, total, device = c.c_size_t(), c.c_size_t(), c.c_void_p()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    nvml, info = c.CDLL("libnvidia-ml.so.1"), (c.c_uint64 * 3)()
    assert nvml.nvmlInit_v2() == 0
    assert nvml.nvmlDeviceGetHandleByIndex_v2(0, c.byref(device)) == 0
    assert nvml.nvmlDeviceGetMemoryInfo(device, info) == 0
    truth = json.loads(subprocess.check_output([NATIVE / "harp-soft-truth"]))
    mine = [one for one in truth["processes"] if one["pid"] == os.getpid()]
    held = sum(one["mem_bytes"] + one["context_bytes"] for one in mine)
    return total.value - free.value, info[2], held


def arm(*rules: str) -> None:
    subprocess.run([NATIVE / "harp-soft-fault", *rules], check=True)


@case(only="soft", why="arms faults of the software GPU")
def a_refusal_anywhere_costs_nothing(d: Driver) -> None:
    """The n-th call that allocates is refused, for each n."""
    Program(d).run()
    before, refusals = seen(d), []
    for n in range(1, 51):
        arm("set", f"oom nth={n}")
        refusals.append(Program(d).run())
        arm("clear")
        assert seen(d) == before, (n, refusals, before, seen(d))
        if refusals[-1] == 0:
            break
    assert refusals[-1] == 0, "there are more calls that allocate"
    assert len(refusals) > 9, refusals
    assert min(refusals[:-1]) > 0, refusals


@case(devices="tiny")
def a_full_device_costs_nothing(d: Driver) -> None:
    """The device is full at each place: it has room for n granules, for each n."""
    Program(d).run()
    before, refusals = seen(d), []
    for granules in range(0, 120, 2):
        free, total = c.c_size_t(), c.c_size_t()
        d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
        hog = d.alloc(free.value // GRANULE * GRANULE - granules * GRANULE)
        refusals.append(Program(d).run())
        d.ok("cuMemFree_v2", hog)
        assert seen(d) == before, (granules, refusals, before, seen(d))
    assert refusals[0] > 5, refusals
    assert refusals[-1] == 0, refusals


if __name__ == "__main__":
    main()
