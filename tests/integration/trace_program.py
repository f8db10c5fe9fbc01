# SPDX-License-Identifier: Apache-2.0
"""A CUDA program whose calls are counted: it prints each call and what it answered.

argv: what to do.
    calls          one of each sort, errors too, with host bytes that are easy to find
    loop SECONDS   launches, and says after each how many there were
    ahead SECONDS  launches, more before the last ones have ended
    contexts N     N contexts that end as soon as their one launch has, one outside them is current
    launches N     N launches of one kernel
    many N         N cheap calls
    fork           a child that calls, and then the parent
    threads N      N calls in each of two threads
    live           calls whenever a line comes, by names got in two ways
"""

from __future__ import annotations

import ctypes as c
import os
import sys
import threading
import time

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry harp_trace_add(.param .u64 at, .param .u32 count)
{
    .reg .b32 %r<4>;
    .reg .b64 %d<4>;
    .reg .pred %p;
    ld.param.u64 %d1, [at];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra done;
    cvta.to.global.u64 %d1, %d1;
    mul.wide.u32 %d2, %r2, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r3, [%d3];
    add.u32 %r3, %r3, 1;
    st.global.u32 [%d3], %r3;
done:
    ret;
}
.visible .entry harp_trace_wait()
{
    nanosleep.u32 500000;
    ret;
}
"""
SECRET = b"do-not-keep-this"
WORDS = 256
cuda = c.CDLL("libcuda.so.1")


def call(name: str, *arguments: object) -> int:
    result = int(getattr(cuda, name)(*arguments))
    print("call", name, result, flush=True)
    return result


def begin() -> None:
    device, context = c.c_int(), c.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", c.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", c.byref(context), device)
    call("cuCtxSetCurrent", context)


class Kernel:
    """The kernel on memory of its own."""

    def __init__(self) -> None:
        self.module, self.function, self.waits = c.c_void_p(), c.c_void_p(), c.c_void_p()
        self.memory, self.stream, self.count = c.c_uint64(), c.c_void_p(), c.c_uint32(WORDS)
        call("cuMemAlloc_v2", c.byref(self.memory), c.c_size_t(4 * WORDS))
        call("cuModuleLoadData", c.byref(self.module), PTX)
        call("cuModuleGetFunction", c.byref(self.function), self.module, b"harp_trace_add")
        call("cuStreamCreate", c.byref(self.stream), 0)
        parts = (self.memory, self.count)
        self.params = (c.c_void_p * 2)(*(c.addressof(p) for p in parts))

    def wait(self) -> int:
        """Half a millisecond on the device."""
        if not self.waits:
            cuda.cuModuleGetFunction(c.byref(self.waits), self.module, b"harp_trace_wait")
        return int(cuda.cuLaunchKernel(self.waits, *(1,) * 6, 0, self.stream, None, None))

    def launch(self) -> int:
        block = (WORDS, 1, 1, 0, self.stream)
        return int(cuda.cuLaunchKernel(self.function, 1, 1, 1, *block, self.params, None))


def calls() -> None:
    begin()
    kernel = Kernel()
    secret = SECRET * (4 * WORDS // len(SECRET))
    host = c.create_string_buffer(secret, len(secret))
    size = c.c_size_t(len(secret))
    call("cuMemcpyHtoD_v2", kernel.memory, host, size)
    print("call cuLaunchKernel", kernel.launch(), flush=True)
    call("cuMemcpyHtoDAsync_v2", kernel.memory, host, size, kernel.stream)
    call("cuMemcpyDtoHAsync_v2", host, kernel.memory, size, kernel.stream)
    call("cuStreamSynchronize", kernel.stream)
    call("cuMemcpyDtoH_v2", host, kernel.memory, size)
    call("cuMemsetD32_v2", kernel.memory, 7, c.c_size_t(WORDS))
    call("cuMemFree_v2", c.c_uint64(12345))
    call("cuModuleGetFunction", c.byref(c.c_void_p()), c.c_void_p(), b"nothing")
    call("cuMemFree_v2", kernel.memory)
    time.sleep(0.05)  # what was measured is read now and then


def loop(seconds: float) -> None:
    begin()
    kernel = Kernel()
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        kernel.launch()
        cuda.cuStreamSynchronize(kernel.stream)
        count += 2
        print("did", count, flush=True)


def ahead(seconds: float) -> None:
    """One launch is always queued behind the one that runs."""
    begin()
    kernel, events = Kernel(), (c.c_void_p(), c.c_void_p())
    for event in events:
        cuda.cuEventCreate(c.byref(event), 0)
    end, count = time.monotonic() + seconds, 0
    print("ready", flush=True)
    while time.monotonic() < end:
        for _ in range(100):
            kernel.wait()
        cuda.cuEventRecord(events[count % 2], kernel.stream)
        count += 1
        if count > 1:
            cuda.cuEventSynchronize(events[count % 2])


def contexts(count: int) -> None:
    device, outside, context, now = c.c_int(), c.c_void_p(), c.c_void_p(), c.c_void_p()
    cuda.cuInit(0)
    cuda.cuDeviceGet(c.byref(device), 0)
    cuda.cuCtxCreate_v2(c.byref(outside), 0, device)
    for _ in range(count):
        cuda.cuCtxCreate_v2(c.byref(context), 0, device)
        kernel = Kernel()
        kernel.launch()
        cuda.cuCtxSynchronize()
        cuda.cuCtxSetCurrent(outside)
        cuda.cuCtxDestroy_v2(context)
        cuda.cuCtxGetCurrent(c.byref(now))
        print("current", now.value == outside.value)


def launches(count: int) -> None:
    begin()
    kernel = Kernel()
    for _ in range(count):
        kernel.launch()
    cuda.cuCtxSynchronize()


def many(count: int) -> None:
    begin()
    version = c.c_int()
    for _ in range(count):
        cuda.cuDriverGetVersion(c.byref(version))


def fork() -> None:
    begin()
    pid = os.fork()
    if pid == 0:
        call("cuDriverGetVersion", c.byref(c.c_int()))
        call("cuCtxGetCurrent", c.byref(c.c_void_p()))
        os._exit(0)
    os.waitpid(pid, 0)
    print("child", pid, flush=True)
    call("cuCtxSynchronize")


def threads(count: int) -> None:
    begin()

    def work() -> None:
        version = c.c_int()
        for _ in range(count):
            cuda.cuDriverGetVersion(c.byref(version))

    both = [threading.Thread(target=work) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()


def live() -> None:
    begin()
    kernel = Kernel()
    got = c.c_void_p()
    cuda.cuGetProcAddress(b"cuCtxSynchronize", c.byref(got), 12000, c.c_uint64(0))
    synchronize = c.CFUNCTYPE(c.c_int)(got.value or 0)
    print("ready", flush=True)
    for _ in sys.stdin:
        kernel.launch()
        synchronize()
        print("done", flush=True)


what, *arguments = sys.argv[1:]
{
    "calls": calls,
    "loop": lambda: loop(float(arguments[0])),
    "ahead": lambda: ahead(float(arguments[0])),
    "contexts": lambda: contexts(int(arguments[0])),
    "launches": lambda: launches(int(arguments[0])),
    "many": lambda: many(int(arguments[0])),
    "fork": fork,
    "threads": lambda: threads(int(arguments[0])),
    "live": live,
}[what]()
