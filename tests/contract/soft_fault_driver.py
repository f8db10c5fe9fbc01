# SPDX-License-Identifier: Apache-2.0
"""What cases of faults on request share. Each runs in a process and on a machine of its own.

The machine has two devices, h100-80g and tiny. A case arms rules with the tool that users have and
sees what a driver-API or NVML client of the running process sees.
"""

from __future__ import annotations

import ctypes as c
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from soft_mod_driver import Driver

CASES: dict[str, Callable[[], None]] = {}


OUT_OF_MEMORY, NO_DEVICE, ECC, NVLINK, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 100, 214, 220, 700, 719


UNKNOWN = 999


GPU_IS_LOST, TIMEOUT = 15, 10


POOLS, IPC_EVENT = 115, 125


#: With POSIX_FILE_DESCRIPTOR handles, HOST_NUMA_VIRTUAL_... and HOST_VIRTUAL_...; CONCURRENT_...
VMM, MANAGED = (102, 103, 141, 145), (83, 89)


IPC_CAPABLE = 10  # CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE


MANAGED_VARIABLE = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .global .attribute(.managed) .align 4 .u32 both = 3;
.visible .entry k() { ret; }
"""


XID_EVENT, DOUBLE_BIT, SINGLE_BIT, UNAVAILABLE = 8, 2, 1, 0x4000


NATIVE = Path(os.environ.get("HARP_NATIVE_DIR", "."))


def case(body: Callable[[], None]) -> Callable[[], None]:
    CASES[body.__name__] = body
    return body


def tool(*args: str, status: int = 0) -> str:
    done = subprocess.run(
        [NATIVE / "harp-soft-fault", *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, (args, done.returncode, done.stderr)
    return done.stdout + done.stderr


def arm(*rules: str) -> None:
    tool("set", *rules)


class Event(c.Structure):
    """nvmlEventData_t."""

    _fields_ = (
        ("device", c.c_void_p),
        ("type", c.c_ulonglong),
        ("data", c.c_ulonglong),
        ("instance", c.c_uint),
        ("compute_instance", c.c_uint),
    )


class Nvml:
    """libnvidia-ml by ctypes, initialised."""

    def __init__(self) -> None:
        self.lib = c.CDLL("libnvidia-ml.so.1")
        assert self.lib.nvmlInit_v2() == 0

    def handle(self, index: int) -> tuple[int, c.c_void_p]:
        out = c.c_void_p()
        return self.lib.nvmlDeviceGetHandleByIndex_v2(index, c.byref(out)), out

    def memory(self, handle: c.c_void_p) -> int:
        return int(self.lib.nvmlDeviceGetMemoryInfo(handle, (c.c_uint64 * 3)()))

    def listen(self, handle: c.c_void_p, kinds: int) -> c.c_void_p:
        events = c.c_void_p()
        assert self.lib.nvmlEventSetCreate(c.byref(events)) == 0
        assert self.lib.nvmlDeviceRegisterEvents(handle, c.c_ulonglong(kinds), events) == 0
        return events

    def wait(self, events: c.c_void_p, timeout_ms: int) -> tuple[int, int | None, int, int]:
        """Code, device, type and data."""
        data = Event()
        code = self.lib.nvmlEventSetWait_v2(events, c.byref(data), timeout_ms)
        return int(code), data.device, data.type, data.data

    def used(self, handle: c.c_void_p) -> int:
        info = (c.c_uint64 * 3)()
        assert self.lib.nvmlDeviceGetMemoryInfo(handle, info) == 0
        return info[2]


def alloc(d: Driver, name: str = "cuMemAlloc_v2", size: int = 1 << 20) -> int:
    out = c.c_uint64()
    if name == "cuMemAllocPitch_v2":
        pitch = c.c_size_t()
        return d.call(name, c.byref(out), c.byref(pitch), c.c_size_t(1024), c.c_size_t(16), 4)
    return d.call(name, c.byref(out), c.c_size_t(size))


def context_on(d: Driver, device: int) -> tuple[int, c.c_void_p]:
    out = c.c_void_p()
    return d.call("cuCtxCreate_v2", c.byref(out), 0, device), out


PROBE = """
import ctypes as c, sys
cu = c.CDLL("libcuda.so.1")
r, n = cu.cuInit(0), c.c_int(-1)
cu.cuDeviceGetCount(c.byref(n))
ctx, p = c.c_void_p(), c.c_uint64()
made = cu.cuCtxCreate_v2(c.byref(ctx), 0, 0)
got = [cu.cuMemAlloc_v2(c.byref(p), c.c_size_t(1 << 20)) for _ in range(int(sys.argv[1]))]
print(r, n.value, made, *got)
"""


OWNER = """
import ctypes as c, sys
cu = c.CDLL("libcuda.so.1")
ctx, p = c.c_void_p(), c.c_uint64()
assert cu.cuInit(0) == 0 and cu.cuCtxCreate_v2(c.byref(ctx), 0, 0) == 0
assert cu.cuMemAlloc_v2(c.byref(p), c.c_size_t(64 << 20)) == 0
print("up", flush=True)
sys.stdin.readline()
print(cu.cuCtxSynchronize())
"""


def probe(allocations: int = 0) -> list[int]:
    """Another process: cuInit, number of devices, a context on the first, allocations."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(allocations)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def all_cases() -> list[tuple[str, str]]:
    """File and name of what the imported modules have registered."""
    return [(Path(body.__code__.co_filename).stem, name) for name, body in CASES.items()]


def main() -> None:
    CASES[sys.argv[1]]()
    print("passed")
