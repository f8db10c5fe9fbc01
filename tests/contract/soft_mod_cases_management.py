# SPDX-License-Identifier: Apache-2.0
"""Cases of NVML beside the driver API: one program asks both, and they agree.

Under libharp both show the tenant's device. How NVML answers in detail: test_soft_nvml.py.
"""

from __future__ import annotations

import ctypes as c
import os
import re

from soft_mod_driver import Driver, case, main

MIB = 1 << 20


class Memory(c.Structure):
    _fields_ = tuple((name, c.c_ulonglong) for name in ("total", "free", "used"))


class Process(c.Structure):
    _fields_ = (("pid", c.c_uint), ("used", c.c_ulonglong), ("gi", c.c_uint), ("ci", c.c_uint))


class Nvml:
    """The device of `d`, found by its UUID."""

    def __init__(self, d: Driver) -> None:
        self.lib = c.CDLL("libnvidia-ml.so.1")
        self.ok("nvmlInit_v2")
        uuid = (c.c_ubyte * 16)()
        d.ok("cuDeviceGetUuid_v2", uuid, d.device)
        text = bytes(uuid).hex()
        at = (8, 12, 16, 20)
        parts = [text[i:j] for i, j in zip((0, *at), (*at, 32), strict=True)]
        self.uuid = "GPU-" + "-".join(parts)
        self.device = c.c_void_p()
        self.ok("nvmlDeviceGetHandleByUUID", self.uuid.encode(), c.byref(self.device))

    def ok(self, name: str, *args: object) -> None:
        result = getattr(self.lib, name)(*args)
        assert result == 0, f"{name}: {result}"

    def memory(self) -> Memory:
        told = Memory()
        self.ok("nvmlDeviceGetMemoryInfo", self.device, c.byref(told))
        return told

    def processes(self) -> dict[int, int]:
        rows, count = (Process * 512)(), c.c_uint(512)
        name = "nvmlDeviceGetComputeRunningProcesses_v3"
        self.ok(name, self.device, c.byref(count), rows)
        return {row.pid: row.used for row in list(rows)[: count.value]}


@case
def identity_is_the_same_by_both(d: Driver) -> None:
    nvml = Nvml(d)
    told = c.create_string_buffer(96)
    nvml.ok("nvmlDeviceGetUUID", nvml.device, told, 96)
    assert told.value.decode() == nvml.uuid
    nvml.ok("nvmlDeviceGetName", nvml.device, told, 96)
    name = c.create_string_buffer(96)
    d.ok("cuDeviceGetName", name, 96, d.device)
    assert told.value == name.value
    major, minor = c.c_int(), c.c_int()
    args = (c.byref(major), c.byref(minor))
    nvml.ok("nvmlDeviceGetCudaComputeCapability", nvml.device, *args)
    capability = (major.value, minor.value)
    d.ok("cuDeviceComputeCapability", *args, d.device)
    assert capability == (major.value, minor.value)
    version, driver = c.c_int(), c.c_int()
    nvml.ok("nvmlSystemGetCudaDriverVersion_v2", c.byref(version))
    d.ok("cuDriverGetVersion", c.byref(driver))
    assert version.value == driver.value
    bus = c.create_string_buffer(32)
    d.ok("cuDeviceGetPCIBusId", bus, 32, d.device)
    assert re.fullmatch(rb"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]", bus.value)
    again = c.c_void_p()
    nvml.ok("nvmlDeviceGetHandleByPciBusId_v2", bus.value, c.byref(again))
    nvml.ok("nvmlDeviceGetUUID", again, told, 96)
    assert told.value.decode() == nvml.uuid


@case
def memory_in_use_follows_an_allocation(d: Driver) -> None:
    nvml = Nvml(d)
    before = nvml.memory()
    assert before.used + before.free <= before.total
    pointer = d.alloc(256 * MIB)
    held = nvml.memory()
    assert held.total == before.total
    assert held.used - before.used >= 256 * MIB
    assert before.free - held.free >= 256 * MIB
    d.ok("cuMemFree_v2", pointer)
    after = nvml.memory()
    assert abs(after.used - before.used) <= 64 * MIB


@case
def the_program_itself_is_listed(d: Driver) -> None:
    nvml = Nvml(d)
    listed = nvml.processes()
    me = os.getpid()
    assert me in listed, (me, listed)
    before = listed[me]
    d.alloc(64 * MIB)
    assert nvml.processes()[me] - before >= 64 * MIB


if __name__ == "__main__":
    main()
