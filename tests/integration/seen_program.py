# SPDX-License-Identifier: Apache-2.0
"""A program that allocates as it is told and says what it sees of the device.

Reads lines: "alloc BYTES", "free I", "async BYTES", "context", "module", "info". Answers each with
one JSON object. With the argument "look" it only ever uses NVML, as nvidia-smi does.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import sys
from typing import Any

import pynvml

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.global .align 8 .b8 table[3145728];
.visible .entry touch(.param .u64 a)
{
ret;
}
"""


class Program:
    """One process's device."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.cuda: c.CDLL | None = None
        self.held: list[c.c_uint64] = []

    def begin(self) -> None:
        """Make a context."""
        self.cuda = c.CDLL("libcuda.so.1")
        context = c.c_void_p()
        self.must(self.cuda.cuInit(0))
        self.must(self.cuda.cuCtxCreate_v2(c.byref(context), 0, 0))

    def must(self, code: int) -> None:
        if code:
            raise RuntimeError(f"code {code}")

    def do(self, words: list[str]) -> dict[str, Any]:
        """One step."""
        pointer, ok = c.c_uint64(), 0
        match words:
            case ["alloc", size]:
                assert self.cuda
                ok = self.cuda.cuMemAlloc_v2(c.byref(pointer), c.c_size_t(int(size)))
                self.held += [pointer] if not ok else []
            case ["async", size]:
                assert self.cuda
                ok = self.cuda.cuMemAllocAsync(c.byref(pointer), c.c_size_t(int(size)), None)
                ok = ok or self.cuda.cuStreamSynchronize(None)
                self.held += [pointer] if not ok else []
            case ["free", index]:
                assert self.cuda
                ok = self.cuda.cuMemFree_v2(self.held.pop(int(index)))
            case ["context"]:
                self.begin()
            case ["module"]:
                assert self.cuda
                module = c.c_void_p()
                ok = self.cuda.cuModuleLoadData(c.byref(module), PTX)
        return {"code": ok, "held": len(self.held), "pid": os.getpid(), **self.seen()}

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
            self.must(self.cuda.cuMemGetInfo_v2(c.byref(free), c.byref(total)))
            self.must(self.cuda.cuDeviceTotalMem_v2(c.byref(size), 0))
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


def main() -> None:
    program = Program()
    if sys.argv[1:] != ["look"]:
        program.begin()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(program.do(line.split())), flush=True)


main()
