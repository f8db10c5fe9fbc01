# SPDX-License-Identifier: Apache-2.0
"""A driver-API program for a GPU elsewhere: adds vectors, and counts what it waited for.

argv: `add` and `graph` print the counts as JSON; `large` allocates 512 MiB, and prints what its
last bytes are after a fill; `variable` copies to a module's variable and back, and prints if it
is the same and known as memory of the device; `chain` copies what a host function writes in the
same stream, and prints what arrived; `busy` does all kinds of calls for ever, and checks what it
reads; `wait` prints "ready" after its first allocation and synchronises until that fails, then
prints the code; `again` adds at each line of its input, from cuInit to the release of its context,
and prints if that was right, or what cuInit answers.
"""

from __future__ import annotations

import ctypes as c
import json
import sys
import time
from typing import Any

PTX = b"""
.version 7.8
.target sm_80
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .b64 %rd<6>;
    .reg .f32 %f<4>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra done;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd4, %rd1, %rd3;
    add.u64 %rd5, %rd2, %rd3;
    ld.global.f32 %f1, [%rd4];
    ld.global.f32 %f2, [%rd5];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd5], %f3;
done:
    ret;
}
"""


VARIABLE = b"""
.version 7.8
.target sm_80
.address_size 64
.visible .global .align 4 .b8 large[10000000];
.visible .entry none() { ret; }
"""


class Api(c.Structure):
    """native/src/shim/entry/api.h."""

    _fields_ = (("memory", c.c_void_p), ("remote_trips", c.CFUNCTYPE(c.c_uint64)))


class Gpu:
    """The first device, and how often a call has waited."""

    def __init__(self) -> None:
        self.cu = c.CDLL("libcuda.so.1")
        get = self.cu.harp_shim_v1
        get.restype = c.POINTER(Api)
        self._api = get().contents
        self.ok("cuInit", 0)
        self.ctx = c.c_void_p()
        self.ok("cuDevicePrimaryCtxRetain", c.byref(self.ctx), 0)
        self.ok("cuCtxSetCurrent", self.ctx)

    def trips(self) -> int:
        count: int = self._api.remote_trips()
        return count

    def ok(self, name: str, *args: Any) -> None:
        result = getattr(self.cu, name)(*args)
        if result:
            print(name, result, flush=True)
            raise SystemExit(3)

    def alloc(self, size: int) -> c.c_uint64:
        at = c.c_uint64()
        self.ok("cuMemAlloc_v2", c.byref(at), c.c_size_t(size))
        return at


def add(gpu: Gpu, count: int) -> dict[str, Any]:
    value = c.c_int()
    for attribute in range(1, 120):  # as frameworks do, before anything else
        gpu.cu.cuDeviceGetAttribute(c.byref(value), attribute, 0)
    a, b = gpu.alloc(4 * count), gpu.alloc(4 * count)
    told = {"first_allocation": gpu.trips()}
    module, function = c.c_void_p(), c.c_void_p()
    gpu.ok("cuModuleLoadData", c.byref(module), PTX)
    gpu.ok("cuModuleGetFunction", c.byref(function), module, b"add")
    floats = c.c_float * count
    one, two, out = floats(*range(count)), floats(*([0.5] * count)), floats()
    size = c.c_size_t(4 * count)
    gpu.ok("cuMemcpyHtoD_v2", a, one, size)
    gpu.ok("cuMemcpyHtoD_v2", b, two, size)
    number = c.c_uint32(count)
    params = (c.c_void_p * 3)(*(c.cast(c.byref(p), c.c_void_p) for p in (a, b, number)))

    def launch() -> None:
        grid = (count + 127) // 128
        gpu.ok("cuLaunchKernel", function, grid, 1, 1, 128, 1, 1, 0, None, params, None)

    launch()
    gpu.ok("cuMemcpyDtoH_v2", out, b, size)
    told["vector_add"] = gpu.trips()
    told["right"] = list(out) == [i + 0.5 for i in range(count)]
    before = gpu.trips()
    for _ in range(1000):
        launch()
    gpu.ok("cuCtxSynchronize")
    told["thousand"] = gpu.trips() - before
    gpu.ok("cuMemcpyDtoH_v2", out, b, size)
    told["right"] = told["right"] and list(out)[:2] == [0.5, 1001.5]
    return told


def chain(gpu: Gpu) -> None:
    """A stream's host function fills pinned memory, and its next copy takes that."""
    size = 1 << 20
    at, pinned, stream = gpu.alloc(size), c.c_void_p(), c.c_void_p()
    gpu.ok("cuMemAllocHost_v2", c.byref(pinned), c.c_size_t(size))
    gpu.ok("cuStreamCreate", c.byref(stream), 1)

    def fill(_data: object) -> None:
        time.sleep(0.1)
        c.memset(pinned, 7, size)

    function = c.CFUNCTYPE(None, c.c_void_p)(fill)
    gpu.ok("cuLaunchHostFunc", stream, function, None)
    gpu.ok("cuMemcpyHtoDAsync_v2", at, pinned, c.c_size_t(size), stream)
    gpu.ok("cuStreamSynchronize", stream)
    back = (c.c_ubyte * size)()
    gpu.ok("cuMemcpyDtoH_v2", back, at, c.c_size_t(size))
    print(sorted(set(back)))


class KernelNode(c.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v1."""

    _fields_ = (
        ("func", c.c_void_p),
        *((name, c.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("params", c.c_void_p),
        ("extra", c.c_void_p),
    )


def graph(gpu: Gpu) -> None:
    """A graph whose node gets other addresses before each launch, as tinygrad's do."""
    count, rounds = 64, 100
    size = c.c_size_t(4 * count)
    ins, out = [gpu.alloc(4 * count) for _ in range(2)], gpu.alloc(4 * count)
    for value, at in enumerate(ins, 1):
        gpu.ok("cuMemcpyHtoD_v2", at, (c.c_float * count)(*([float(value)] * count)), size)
    gpu.ok("cuMemcpyHtoD_v2", out, (c.c_float * count)(), size)
    module, function = c.c_void_p(), c.c_void_p()
    gpu.ok("cuModuleLoadData", c.byref(module), PTX)
    gpu.ok("cuModuleGetFunction", c.byref(function), module, b"add")
    number = c.c_uint32(count)

    def node_of(at: c.c_uint64, grid: int = 1) -> KernelNode:
        params = (c.c_void_p * 3)(*(c.cast(c.byref(p), c.c_void_p) for p in (at, out, number)))
        made = KernelNode(function, grid, 1, 1, count, 1, 1, 0, c.addressof(params))
        made.kept = params
        return made

    made, node, runs = c.c_void_p(), c.c_void_p(), c.c_void_p()
    gpu.ok("cuGraphCreate", c.byref(made), 0)
    first = node_of(ins[0])
    gpu.ok("cuGraphAddKernelNode", c.byref(node), made, None, c.c_size_t(0), c.byref(first))
    gpu.ok("cuGraphInstantiateWithFlags", c.byref(runs), made, c.c_uint64(0))
    told: dict[str, Any] = {}

    def trips_of(what: str, at: c.c_uint64, times: int, grid: int = 1) -> None:
        before = gpu.trips()
        for _ in range(times):
            given = node_of(at, grid)
            gpu.ok("cuGraphExecKernelNodeSetParams", runs, node, c.byref(given))
            gpu.ok("cuGraphLaunch", runs, None)
        told[what] = gpu.trips() - before

    trips_of("first", ins[0], 1)
    trips_of("more", ins[1], rounds)
    trips_of("another grid", ins[0], 1, grid=2)
    # What the driver refuses, it refuses at once, however often it has accepted another.
    wrong = node_of(ins[0], grid=0)
    told["wrong"] = gpu.cu.cuGraphExecKernelNodeSetParams(runs, node, c.byref(wrong))
    other = c.c_void_p()
    gpu.ok("cuGraphInstantiateWithFlags", c.byref(other), made, c.c_uint64(0))
    before = gpu.trips()
    gpu.ok("cuGraphExecKernelNodeSetParams", other, node, c.byref(node_of(ins[0], 2)))
    told["another graph that runs"] = gpu.trips() - before
    back = (c.c_float * count)()
    gpu.ok("cuMemcpyDtoH_v2", back, out, size)
    told["sums"] = sorted(set(back))
    print(json.dumps(told))


def large(gpu: Gpu) -> None:
    size, end = 512 << 20, 100
    at = gpu.alloc(size)
    last = c.c_uint64(at.value + size - end)
    gpu.ok("cuMemsetD8_v2", last, c.c_ubyte(7), c.c_size_t(end))
    back = (c.c_ubyte * end)()
    gpu.ok("cuMemcpyDtoH_v2", back, last, c.c_size_t(end))
    print(sorted(set(back)))


def variable(gpu: Gpu) -> None:
    """More than one region holds, at an address that only the worker knows."""
    module, at, size = c.c_void_p(), c.c_uint64(), c.c_size_t()
    gpu.ok("cuModuleLoadData", c.byref(module), VARIABLE)
    gpu.ok("cuModuleGetGlobal_v2", c.byref(at), c.byref(size), module, b"large")
    data = bytes(i * 7 % 251 for i in range(size.value))
    there, back, again = (c.create_string_buffer(size.value) for _ in range(3))
    c.memmove(there, data, size.value)
    gpu.ok("cuMemcpy", at, c.c_uint64(c.addressof(there)), size)
    gpu.ok("cuMemcpyDtoH_v2", back, at, size)
    gpu.ok("cuMemcpyAsync", c.c_uint64(c.addressof(again)), at, size, None)
    kind = c.c_uint()
    gpu.ok("cuPointerGetAttribute", c.byref(kind), 2, c.c_uint64(at.value + 5))
    print(back.raw == data, again.raw == data, kind.value == 2)


def busy(gpu: Gpu) -> None:
    """Copies by regions and in pieces, launches, host functions, events: until a call fails."""
    kept = gpu.alloc(64 << 20)
    module, function, stream = c.c_void_p(), c.c_void_p(), c.c_void_p()
    gpu.ok("cuModuleLoadData", c.byref(module), PTX)
    gpu.ok("cuModuleGetFunction", c.byref(function), module, b"add")
    gpu.ok("cuStreamCreate", c.byref(stream), 1)
    hook = c.CFUNCTYPE(None, c.c_void_p)(lambda _data: None)
    size, count = 5 << 20, 1024
    data, pinned = bytes(i * 7 % 251 for i in range(1000)) * 5243, c.c_void_p()
    there, back = c.create_string_buffer(data, len(data)), c.create_string_buffer(size)
    gpu.ok("cuMemAllocHost_v2", c.byref(pinned), c.c_size_t(size))
    while True:
        at, number = gpu.alloc(size), c.c_uint32(count)
        gpu.ok("cuMemcpyHtoD_v2", at, there, c.c_size_t(size))
        gpu.ok("cuMemcpyDtoHAsync_v2", pinned, at, c.c_size_t(size), stream)
        params = (c.c_void_p * 3)(*(c.cast(c.byref(p), c.c_void_p) for p in (kept, kept, number)))
        for _ in range(50):
            gpu.ok("cuLaunchKernel", function, 8, 1, 1, 128, 1, 1, 0, stream, params, None)
        gpu.ok("cuLaunchHostFunc", stream, hook, None)
        gpu.ok("cuStreamSynchronize", stream)
        gpu.ok("cuMemcpyDtoH_v2", back, at, c.c_size_t(size))
        assert back.raw == data[:size]
        assert c.string_at(pinned, size) == data[:size]
        gpu.ok("cuMemFree_v2", at)


def wait(gpu: Gpu) -> None:
    gpu.alloc(1 << 20)
    print("ready", flush=True)
    while not (result := gpu.cu.cuCtxSynchronize()):
        pass
    print(result, flush=True)


def again() -> None:
    cu = c.CDLL("libcuda.so.1")
    for _ in sys.stdin:
        if code := cu.cuInit(0):
            print(code, flush=True)
            continue
        gpu = Gpu()
        right = add(gpu, 100)["right"]
        gpu.ok("cuDevicePrimaryCtxRelease_v2", 0)
        print(right, flush=True)


def main() -> None:
    if sys.argv[1] == "again":
        again()
        return
    gpu = Gpu()
    modes = {
        "wait": wait,
        "graph": graph,
        "chain": chain,
        "busy": busy,
        "large": large,
        "variable": variable,
    }
    if mode := modes.get(sys.argv[1]):
        mode(gpu)
    else:
        print(json.dumps(add(gpu, int(sys.argv[2]))))


if __name__ == "__main__":
    main()
