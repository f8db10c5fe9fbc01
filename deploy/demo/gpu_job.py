#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A job that uses a GPU and knows nothing of HARP: the driver API, by ctypes.

gpu_job.py [--device N] [--fill] [--hold MIB] [--steps N | --seconds S] [--every S]

Says what it sees and does, one line each. A step: a vector goes to the GPU, a kernel changes it, it
comes back and is checked. Calls that fail are counted; the end says how many, also after SIGTERM.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
import time

MIB = 1 << 20
PIECE_MIB = 16
LENGTH = 4096
ADD = 3
PTX = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry add(.param .u64 data, .param .u32 amount)
{
    .reg .b64 %d<3>;
    .reg .b32 %r<6>;
    ld.param.u64 %d0, [data];
    ld.param.u32 %r0, [amount];
    cvta.to.global.u64 %d0, %d0;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r3, %r1, %r2, %r3;
    mul.wide.u32 %d1, %r3, 4;
    add.u64 %d0, %d0, %d1;
    ld.global.u32 %r4, [%d0];
    add.u32 %r4, %r4, %r0;
    st.global.u32 [%d0], %r4;
    ret;
}
"""


class Gpu:
    """One of the driver's devices."""

    def __init__(self, number: int = 0) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.calls = self.failed = 0
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.need("cuInit", 0)
        count = ctypes.c_int()
        self.need("cuDeviceGetCount", ctypes.byref(count))
        self.count = count.value
        self.need("cuDeviceGet", ctypes.byref(device), number)
        self.need("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.need("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: object) -> int:
        """A driver's call, counted; its code."""
        code = getattr(self.driver, name)(*arguments)
        self.calls += 1
        self.failed += code != 0
        return int(code)

    def need(self, name: str, *arguments: object) -> None:
        """The same; the program ends where it fails."""
        if code := self.call(name, *arguments):
            say(f"{name} failed with code {code}")
            sys.exit(3)

    def allocate(self, mib: int) -> ctypes.c_uint64 | None:
        """Memory; None: it is out of memory, which is counted nowhere."""
        pointer = ctypes.c_uint64()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(mib * MIB))
        if code == 2:
            return None
        if code:
            say(f"cuMemAlloc failed with code {code}")
            sys.exit(3)
        return pointer

    def total_mib(self) -> int:
        """The memory it has, as the driver says."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.need("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value // MIB


class Adder:
    """The kernel, and a vector for it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        module, self.kernel = ctypes.c_void_p(), ctypes.c_void_p()
        gpu.need("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX.encode()))
        gpu.need("cuModuleGetFunction", ctypes.byref(self.kernel), module, b"add")
        self.host = (ctypes.c_uint32 * LENGTH)()
        self.device = ctypes.c_uint64()
        size = ctypes.c_size_t(ctypes.sizeof(self.host))
        gpu.need("cuMemAlloc_v2", ctypes.byref(self.device), size)
        data, amount = ctypes.c_uint64(self.device.value), ctypes.c_uint32(ADD)
        self.parameters = (ctypes.c_void_p * 2)(ctypes.addressof(data), ctypes.addressof(amount))
        self._kept = data, amount

    def step(self, number: int) -> None:
        """There, changed, back, right."""
        size = ctypes.c_size_t(ctypes.sizeof(self.host))
        for place in range(LENGTH):
            self.host[place] = number + place
        self.gpu.call("cuMemcpyHtoD_v2", self.device, self.host, size)
        grid = (ctypes.c_uint(LENGTH // 256), ctypes.c_uint(1), ctypes.c_uint(1))
        block = (ctypes.c_uint(256), ctypes.c_uint(1), ctypes.c_uint(1))
        self.gpu.call("cuLaunchKernel", self.kernel, *grid, *block, 0, None, self.parameters, None)
        self.gpu.call("cuMemcpyDtoH_v2", self.host, self.device, size)
        for place in (0, 1, LENGTH // 2, LENGTH - 1):
            if self.host[place] != number + place + ADD:
                say(f"step {number}: wrong result at {place}: {self.host[place]}")
                sys.exit(4)


def say(text: str) -> None:
    """One line."""
    print(text, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=int, default=0, metavar="N", help="which [0]")
    parser.add_argument("--fill", action="store_true", help="allocate until there is no more")
    parser.add_argument("--hold", type=int, default=0, metavar="MIB", help="keep so much")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--every", type=float, default=0, help="say how far it is, so often")
    given = parser.parse_args()
    over: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.append(1))
    gpu = Gpu(given.device)
    say(f"GPUs: {gpu.count}")
    say(f"memory: {gpu.total_mib()} MiB")
    if given.fill:
        pieces = []
        while (piece := gpu.allocate(PIECE_MIB)) is not None:
            pieces.append(piece)
        say(f"allocated {len(pieces) * PIECE_MIB} MiB, then out of memory")
        for piece in pieces:
            gpu.need("cuMemFree_v2", piece)
    if given.hold and gpu.allocate(given.hold) is None:
        say(f"out of memory: no {given.hold} MiB")
        sys.exit(5)
    adder = Adder(gpu)
    began_s = said_s = time.monotonic()
    steps = 0
    while not over and (not given.steps or steps < given.steps):
        now_s = time.monotonic()
        if given.seconds and now_s - began_s >= given.seconds:
            break
        if given.every and now_s - said_s >= given.every:
            say(f"at {steps} steps, {gpu.failed} calls failed")
            said_s = now_s
        adder.step(steps)
        steps += 1
    say(f"{steps} steps, {gpu.failed} calls failed")


main()
