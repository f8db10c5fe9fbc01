# SPDX-License-Identifier: Apache-2.0
"""A program that takes memory of each kind as it is told, and says what it sees of the device.

Reads lines: a kind of memory and a size in bytes ("alloc 4096"; see KINDS), "free I", "context",
"info"; answers each with one JSON object. "past" goes to the driver behind HARP's back. With the
argument "look" it only ever uses NVML, as nvidia-smi does.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pynvml

MODULE = """
.version 7.0
.target sm_70
.address_size 64
.global .align 8 .b8 table[{size}];
.visible .entry touch(.param .u64 a)
{{
ret;
}}
"""
MALLOC_HEAP_SIZE = 2
FORMAT_UNSIGNED_INT8 = 1
PINNED, DEVICE = 1, 1
ATTACH_GLOBAL = 1
RTLD_NOW, RTLD_NOLOAD = 2, 4


class Array2D(c.Structure):
    """CUDA_ARRAY_DESCRIPTOR."""

    _fields_ = (
        ("width", c.c_size_t),
        ("height", c.c_size_t),
        ("format", c.c_int),
        ("channels", c.c_uint),
    )


class Physical(c.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c.c_int),
        ("handles", c.c_int),
        ("location_type", c.c_int),
        ("location_id", c.c_int),
        ("meta", c.c_void_p),
        ("flags", c.c_uint8 * 8),
    )


Made = tuple[int, Callable[[], int]]  #: code, how to free it


class Program:
    """One process's device."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.cuda: Any = None
        self.held: list[Callable[[], int]] = []

    def context(self, _size: int = 0) -> Made:
        """Make a context, the current one from now on."""
        self.cuda = c.CDLL("libcuda.so.1")
        made = c.c_void_p()
        code = self.cuda.cuInit(0) or self.cuda.cuCtxCreate_v2(c.byref(made), 0, 0)
        return code, lambda: 0

    def alloc(self, size: int) -> Made:
        pointer = c.c_uint64()
        code = self.cuda.cuMemAlloc_v2(c.byref(pointer), c.c_size_t(size))
        return code, lambda: int(self.cuda.cuMemFree_v2(pointer))

    def pitch(self, size: int) -> Made:
        pointer, pitch = c.c_uint64(), c.c_size_t()
        width, height = c.c_size_t(1000), c.c_size_t(size // 1000 + 1)
        code = self.cuda.cuMemAllocPitch_v2(c.byref(pointer), c.byref(pitch), width, height, 4)
        return code, lambda: int(self.cuda.cuMemFree_v2(pointer))

    def managed(self, size: int) -> Made:
        """Used on the device at once: it is resident there."""
        pointer = c.c_uint64()
        code = self.cuda.cuMemAllocManaged(c.byref(pointer), c.c_size_t(size), ATTACH_GLOBAL)
        code = code or self.cuda.cuMemsetD8_v2(pointer, 1, c.c_size_t(size))
        return code, lambda: int(self.cuda.cuMemFree_v2(pointer))

    def array(self, size: int) -> Made:
        made, form = c.c_void_p(), Array2D(1000, size // 1000 + 1, FORMAT_UNSIGNED_INT8, 1)
        code = self.cuda.cuArrayCreate_v2(c.byref(made), c.byref(form))
        return code, lambda: int(self.cuda.cuArrayDestroy(made))

    def vmm(self, size: int) -> Made:
        """Physical memory that is mapped, and whose handle is gone."""
        handle, address = c.c_uint64(), c.c_uint64()
        whole = c.c_size_t(-(-size >> 21 << 21) or 2 << 20)
        form = Physical(PINNED, 0, DEVICE, 0)
        code = (
            self.cuda.cuMemCreate(c.byref(handle), whole, c.byref(form), c.c_uint64(0))
            or self.cuda.cuMemAddressReserve(c.byref(address), whole, c.c_size_t(0), None, 0)
            or self.cuda.cuMemMap(address, whole, c.c_size_t(0), handle, c.c_uint64(0))
            or self.cuda.cuMemRelease(handle)
        )
        return code, lambda: int(
            self.cuda.cuMemUnmap(address, whole) or self.cuda.cuMemAddressFree(address, whole)
        )

    def ordered(self, size: int) -> Made:
        """Of the stream-ordered pool."""
        pointer = c.c_uint64()
        code = self.cuda.cuMemAllocAsync(c.byref(pointer), c.c_size_t(size), None)
        code = code or self.cuda.cuStreamSynchronize(None)
        return code, lambda: int(
            self.cuda.cuMemFreeAsync(pointer, None) or self.cuda.cuStreamSynchronize(None)
        )

    def module(self, size: int) -> Made:
        made, text = c.c_void_p(), MODULE.format(size=size).encode()
        code = self.cuda.cuModuleLoadData(c.byref(made), text)
        return code, lambda: int(self.cuda.cuModuleUnload(made))

    def heap(self, size: int) -> Made:
        """For malloc() in kernels; there is no giving it back."""
        usual = 8 << 20
        return self.cuda.cuCtxSetLimit(MALLOC_HEAP_SIZE, c.c_size_t(usual + size)), lambda: 0

    def pinned(self, size: int) -> Made:
        """Host memory."""
        pointer = c.c_void_p()
        code = self.cuda.cuMemAllocHost_v2(c.byref(pointer), c.c_size_t(size))
        return code, lambda: int(self.cuda.cuMemFreeHost(pointer))

    def churn(self, size: int) -> Made:
        """Hold it half of the time, for five seconds; the code is how often it was refused."""
        failures, end = 0, time.monotonic() + 5
        while time.monotonic() < end:
            code, free = self.alloc(size)
            time.sleep(0.002)
            failures += code != 0 or free() != 0
            time.sleep(0.002)
        return failures, lambda: 0

    def past(self, size: int) -> Made:
        """From the driver that is loaded already, by its own address."""
        libc = c.CDLL("libc.so.6")
        libc.dlopen.restype = libc.dlsym.restype = c.c_void_p
        driver = c.c_void_p(
            libc.dlopen(os.environ["HARP_CUDA_REAL"].encode(), RTLD_NOW | RTLD_NOLOAD)
        )
        take = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_size_t)(libc.dlsym(driver, b"cuMemAlloc_v2"))
        give = c.CFUNCTYPE(c.c_int, c.c_uint64)(libc.dlsym(driver, b"cuMemFree_v2"))
        pointer = c.c_uint64()
        code = take(c.cast(c.pointer(pointer), c.c_void_p), size)
        return code, lambda: int(give(pointer.value))

    def do(self, words: list[str]) -> dict[str, Any]:
        """One step."""
        code = 0
        match words:
            case ["free", index]:
                code = self.held.pop(int(index))()
            case ["info"]:
                pass
            case [kind, *size]:
                code, free = KINDS[kind](self, int(size[0]) if size else 0)
                self.held += [free] if not code and kind != "context" else []
        return {"code": code, "held": len(self.held), "pid": os.getpid(), **self.seen()}

    def seen(self) -> dict[str, Any]:
        """What every road says."""
        v1 = pynvml.nvmlDeviceGetMemoryInfo(self.handle)
        v2 = pynvml.nvmlDeviceGetMemoryInfo(self.handle, version=pynvml.nvmlMemory_v2)
        rows = pynvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
        said: dict[str, Any] = {
            "v1": [v1.free, v1.used, v1.total],
            "v2": [v2.free, v2.used, v2.total],
            "reserved": v2.reserved,
            "processes": {str(row.pid): row.usedGpuMemory for row in rows},
            "engines": self.engines(),
        }
        if self.cuda:
            free, total, size = c.c_size_t(), c.c_size_t(), c.c_size_t()
            code = self.cuda.cuMemGetInfo_v2(c.byref(free), c.byref(total))
            code = code or self.cuda.cuDeviceTotalMem_v2(c.byref(size), 0)
            assert code == 0
            said["cuda"] = [free.value, total.value - free.value, total.value]
            said["total"] = size.value
        return said

    def engines(self) -> list[int]:
        """Pids whose use of the engines is told."""
        try:
            rows = pynvml.nvmlDeviceGetProcessUtilization(self.handle, 0)
        except pynvml.NVMLError_NotFound:
            return []
        return sorted({int(row.pid) for row in rows})


KINDS: dict[str, Callable[[Program, int], Made]] = {
    "context": Program.context,
    "alloc": Program.alloc,
    "pitch": Program.pitch,
    "managed": Program.managed,
    "array": Program.array,
    "vmm": Program.vmm,
    "ordered": Program.ordered,
    "module": Program.module,
    "heap": Program.heap,
    "pinned": Program.pinned,
    "past": Program.past,
    "churn": Program.churn,
}


def main() -> None:
    program = Program()
    if sys.argv[1:] != ["look"]:
        program.context()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(program.do(line.split())), flush=True)


main()
