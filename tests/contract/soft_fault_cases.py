# SPDX-License-Identifier: Apache-2.0
"""Cases of faults on request: each runs in a process of its own, on a machine of its own.

The machine has two devices, h100-80g and tiny. A case arms rules with the tool that users have and
sees what a driver-API or NVML client of the running process sees.
"""

from __future__ import annotations

import ctypes as c
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from soft_mod_driver import NOT_SUPPORTED, Driver, Params

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


@case
def a_call_fails_by_its_number() -> None:
    d = Driver()
    arm(
        "fail cuMemAlloc_v2 2 nth=3",
        "fail cuMemGetInfo_v2 999 every=2",
        "fail cuCtxGetDevice 4 from=3",
    )
    assert [alloc(d) for _ in range(5)] == [0, 0, 2, 0, 0]
    free, total = c.c_size_t(), c.c_size_t()
    info = [d.call("cuMemGetInfo_v2", c.byref(free), c.byref(total)) for _ in range(4)]
    assert info == [0, 999, 0, 999]
    device = c.c_int()
    assert [d.call("cuCtxGetDevice", c.byref(device)) for _ in range(4)] == [0, 0, 4, 4]
    tool("clear")
    assert alloc(d) == 0
    assert d.call("cuCtxGetDevice", c.byref(device)) == 0


@case
def a_failed_call_does_nothing() -> None:
    d = Driver()
    free, total, after = c.c_size_t(), c.c_size_t(), c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    arm("fail cuMemAlloc_v2 2")
    out = c.c_uint64(0x1234)
    assert d.call("cuMemAlloc_v2", c.byref(out), c.c_size_t(64 << 20)) == OUT_OF_MEMORY
    d.ok("cuMemGetInfo_v2", c.byref(after), c.byref(total))
    assert (out.value, after.value) == (0x1234, free.value)


@case
def a_call_made_inside_is_not_a_clients_call() -> None:
    """cuCtxCreate_v4 uses cuCtxCreate_v2 inside; cuCtxSynchronize uses cuCtxSynchronize_v2."""
    d = Driver()
    arm("fail cuCtxCreate_v2 2", "fail cuCtxCreate_v4 5 nth=2", "fail cuCtxSynchronize_v2 6")
    ctx = c.c_void_p()
    assert d.call("cuCtxCreate_v4", c.byref(ctx), None, 0, 0) == 0
    assert d.call("cuCtxCreate_v4", c.byref(ctx), None, 0, 0) == 5
    assert d.call("cuCtxSynchronize") == 0
    assert d.call("cuCtxSynchronize_v2", None) == 6


@case
def twins_and_beginnings() -> None:
    d = Driver()
    ptr, data = d.alloc(64), c.create_string_buffer(64)
    copies = ("cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds")
    arm("fail cuMemcpyHtoD_v2 7 from=2")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [0, 7]
    arm("fail cuMemcpyHtoD_v2_ptds 7")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [0, 7]
    arm("fail cuMemcpy* 700")
    assert [d.call(n, ptr, data, c.c_size_t(64)) for n in copies] == [700, 700]
    assert alloc(d) == 0


@case
def both_ways_to_an_entry_are_one_door() -> None:
    d = Driver()
    entry, status = c.c_void_p(), c.c_int()
    d.ok(
        "cuGetProcAddress_v2", b"cuMemAlloc", c.byref(entry), 13000, c.c_uint64(0), c.byref(status)
    )
    assert entry.value == c.cast(d.cu.cuMemAlloc_v2, c.c_void_p).value
    arm("fail cuMemAlloc_v2 2 nth=2")
    out = c.c_uint64()
    call = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_size_t)(entry.value or 0)
    assert [call(c.addressof(out), 1 << 20), alloc(d), alloc(d)] == [0, 2, 0]


@case
def only_on_one_device_or_for_one_program() -> None:
    d = Driver()
    assert context_on(d, 1)[0] == 0
    arm("fail cuMemAlloc_v2 2 dev=0")
    assert alloc(d) == 0
    d.ok("cuCtxSetCurrent", d.ctx)
    assert alloc(d) == OUT_OF_MEMORY
    arm("fail cuDeviceTotalMem_v2 3 dev=1")  # it names the device itself
    size = c.c_size_t()
    assert [d.call("cuDeviceTotalMem_v2", c.byref(size), n) for n in (0, 1)] == [0, 3]
    arm(f"fail cuMemAlloc_v2 2 pid={os.getpid()}")
    assert alloc(d) == OUT_OF_MEMORY
    assert probe(1)[3:] == [0]
    arm("fail cuMemAlloc_v2 2 program=nobody")
    assert alloc(d) == 0
    name = Path("/proc/self/comm").read_text().strip()
    arm(f"fail cuMemAlloc_v2 2 program={name}")
    assert alloc(d) == OUT_OF_MEMORY


@case
def before_the_first_call() -> None:
    arm("fail cuInit 999 nth=1")
    lib = c.CDLL("libcuda.so.1")
    assert [lib.cuInit(0), lib.cuInit(0)] == [UNKNOWN, 0]


@case
def slow_takes_longer_and_does_its_work() -> None:
    d = Driver()
    data = np.arange(16, dtype="f4")
    arm(
        "slow cuMemcpyHtoD_v2 80ms",
        "fail cuMemcpyDtoH_v2 7 nth=2",
        "slow cuMemcpyDtoH_v2 60ms nth=2",
    )
    start = time.monotonic()
    ptr = d.up(data)
    assert time.monotonic() - start >= 0.08
    start = time.monotonic()
    assert (d.down(ptr, 16) == data).all()
    first = time.monotonic() - start
    start = time.monotonic()
    out = np.zeros(16, "f4")
    assert d.call("cuMemcpyDtoH_v2", c.c_void_p(out.ctypes.data), ptr, c.c_size_t(64)) == 7
    assert time.monotonic() - start >= 0.06 > first


@case
def oom_meets_any_kind_of_device_memory() -> None:
    d = Driver()
    arm("oom nth=3")
    kinds = ["cuMemAlloc_v2", "cuMemAllocPitch_v2", "cuMemAllocPitch_v2", "cuMemAlloc_v2"]
    assert [alloc(d, kind) for kind in kinds] == [0, 0, OUT_OF_MEMORY, 0]
    host = c.c_void_p()
    arm("oom")
    d.ok("cuMemAllocHost_v2", c.byref(host), c.c_size_t(4096))  # not the device's
    for name in ("cuMemCreate", "cuArrayCreate_v2", "cuMemAllocManaged", "cuMemAllocAsync"):
        assert d.call(name, None, None, None, None) == OUT_OF_MEMORY, name


@case
def oom_counts_by_process_or_machine() -> None:
    d = Driver()
    arm("oom nth=2 count=machine")
    assert alloc(d) == 0
    assert probe(2)[3:] == [OUT_OF_MEMORY, 0]
    assert alloc(d) == 0
    arm("oom nth=2")
    assert alloc(d) == 0
    assert probe(3)[3:] == [0, OUT_OF_MEMORY, 0]
    assert alloc(d) == OUT_OF_MEMORY


@case
def nvml_calls_have_the_same_doors() -> None:
    n = Nvml()
    (_, first), (_, second) = n.handle(0), n.handle(1)
    arm("fail nvmlDeviceGetMemoryInfo 999 dev=1 nth=2", "fail nvmlDeviceGetTemperature 15")
    assert [n.memory(h) for h in (first, second, second, second)] == [0, 0, 999, 0]
    assert n.lib.nvmlDeviceGetTemperature(first, 0, c.byref(c.c_uint())) == GPU_IS_LOST
    d = Driver()
    assert alloc(d) == 0


def _xid(number: int, error: int) -> None:
    d = Driver()
    module = d.module()
    ptr = d.alloc(64)
    arm(f"xid {number} dev=0")
    expected = [error] * 4
    out = c.create_string_buffer(64)
    seen = [
        d.call("cuCtxSynchronize"),
        alloc(d),
        d.call("cuMemcpyDtoH_v2", out, ptr, c.c_size_t(64)),
        d.call("cuModuleGetFunction", c.byref(c.c_void_p()), module, b"bump"),
    ]
    if error == 0:
        assert seen == expected, seen
        return
    # handles of host memory may answer without asking the device
    assert seen[:3] == expected[:3], seen
    tool("clear")
    assert alloc(d) == error, "it is for good"
    status, other = context_on(d, 0)
    assert status == 0, "the device is well, and a new context too"
    assert alloc(d) == 0
    d.ok("cuCtxDestroy_v2", other)
    assert context_on(d, 1)[0] == 0


for _number, _error in {
    31: ILLEGAL_ADDRESS, 43: LAUNCH_FAILED, 48: ECC, 63: 0, 64: 0, 74: NVLINK, 94: ECC, 95: ECC,
}.items():  # fmt: skip

    def _body(number: int = _number, error: int = _error) -> None:
        _xid(number, error)

    CASES[f"xid_{_number}_ends_contexts_with_{_error}"] = _body


@case
def a_contained_error_hits_one_process() -> None:
    d = Driver()
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    arm(f"xid 94 dev=0 pid={child.pid}")
    assert child.communicate("\n")[0].strip() == str(ECC)
    assert d.call("cuCtxSynchronize") == 0


@case
def ecc_errors() -> None:
    d = Driver()
    arm("ecc corrected 1000 dev=0")
    assert alloc(d) == 0
    arm("ecc uncorrected 1 dev=1")
    assert alloc(d) == 0, "it was the other device"
    arm("ecc uncorrected 1 dev=0")
    assert [alloc(d), d.call("cuCtxSynchronize")] == [ECC, ECC]


@case
def a_lost_device() -> None:
    d, n = Driver(), Nvml()
    (_, first), (_, second) = n.handle(0), n.handle(1)
    _, other = context_on(d, 1)
    d.ok("cuCtxSetCurrent", d.ctx)
    arm("lost dev=0")
    assert [alloc(d), d.call("cuCtxSynchronize")] == [UNKNOWN, UNKNOWN]
    assert context_on(d, 0)[0] == UNKNOWN
    assert [n.memory(first), n.memory(second)] == [GPU_IS_LOST, 0]
    assert [n.handle(0)[0], n.handle(1)[0]] == [GPU_IS_LOST, 0]
    count = c.c_uint()
    assert (n.lib.nvmlDeviceGetCount_v2(c.byref(count)), count.value) == (0, 2)
    d.ok("cuCtxSetCurrent", other)
    assert alloc(d) == 0, "the other device works"
    assert probe() == [0, 1, 0], "a new process does not see it"
    tool("clear")
    assert probe() == [0, 2, 0]
    d.ok("cuCtxSetCurrent", d.ctx)
    assert alloc(d) == UNKNOWN, "what was on it is lost"
    assert context_on(d, 0)[0] == 0
    assert alloc(d) == 0
    assert n.memory(first) == 0


def _told(rule: str, kind: int, data: int) -> tuple[Nvml, c.c_void_p, c.c_void_p]:
    """Who waits for events hears of the rule at once, in its call; who waits for others does not.

    Args:
        rule: about the first device.
        kind: of its event.
        data: of its event.
    """
    n = Nvml()
    (_, first), (_, second) = n.handle(0), n.handle(1)
    kinds = kind if kind == UNAVAILABLE else XID_EVENT | DOUBLE_BIT | SINGLE_BIT
    mine, others = n.listen(first, kinds), n.listen(second, kinds)
    assert n.wait(mine, 0)[0] == TIMEOUT
    timer = threading.Timer(0.3, arm, [rule])
    timer.start()
    assert n.wait(mine, 60000) == (0, first.value, kind, data)
    timer.join()
    assert n.wait(mine, 50)[0] == TIMEOUT, "once"
    assert n.wait(others, 0)[0] == TIMEOUT
    return n, first, mine


def _ecc(n: Nvml, handle: c.c_void_p, kind: int) -> int:
    count = c.c_ulonglong()
    assert n.lib.nvmlDeviceGetTotalEccErrors(handle, kind, 0, c.byref(count)) == 0
    return count.value


@case
def nvml_hears_of_a_device_that_falls_off_the_bus() -> None:
    d = Driver()
    n, first, mine = _told("xid 79 dev=0", XID_EVENT, 79)
    assert n.memory(first) == GPU_IS_LOST
    assert alloc(d) == UNKNOWN
    tool("clear")
    assert n.memory(first) == 0
    assert n.wait(mine, 0)[0] == TIMEOUT
    arm("xid 63 dev=0")
    assert n.wait(mine, 60000)[2:] == (XID_EVENT, 63)
    assert n.memory(first) == 0


@case
def nvml_hears_of_a_lost_device() -> None:
    n, first, mine = _told("lost dev=0", UNAVAILABLE, 0)
    assert n.memory(first) == GPU_IS_LOST
    tool("clear")
    assert n.wait(mine, 0)[0] == TIMEOUT, "that it is back is no event"
    arm("xid 79 dev=0")
    assert n.wait(mine, 60000)[2] == UNAVAILABLE


@case
def nvml_hears_of_uncorrected_errors() -> None:
    d = Driver()
    n, first, _ = _told("ecc uncorrected 3 dev=0", DOUBLE_BIT, 0)
    assert (_ecc(n, first, 1), _ecc(n, first, 0)) == (3, 0)
    assert alloc(d) == ECC


@case
def nvml_hears_of_corrected_errors() -> None:
    d = Driver()
    n, first, _ = _told("ecc corrected 7 dev=0", SINGLE_BIT, 0)
    assert (_ecc(n, first, 1), _ecc(n, first, 0)) == (0, 7)
    assert alloc(d) == 0


@case
def no_device_is_left() -> None:
    arm("lost dev=0", "xid 79 dev=1")
    lib = c.CDLL("libcuda.so.1")
    assert lib.cuInit(0) == NO_DEVICE
    tool("clear")


@case
def a_call_that_waits_hears_of_the_loss() -> None:
    d = Driver()
    ptr, data = d.alloc(1 << 20), c.c_void_p()
    d.ok("cuMemAllocHost_v2", c.byref(data), c.c_size_t(1 << 20))  # else a copy waits by itself
    arm("slowdev factor=1000")
    stream = d.stream()
    start = time.monotonic()
    for _ in range(900):  # some 40 us each, a thousand times that
        d.ok("cuMemcpyHtoDAsync_v2", ptr, data, c.c_size_t(1 << 20), stream)
    threading.Timer(0.3, arm, ["xid 79 dev=0"]).start()
    assert d.call("cuStreamSynchronize", stream) == UNKNOWN
    assert time.monotonic() - start < 30


@case
def a_slow_device_takes_longer() -> None:
    d = Driver()
    ptr, data = d.alloc(1 << 20), c.create_string_buffer(1 << 20)

    def ms() -> float:
        stream, start, end = d.stream(), d.event(), d.event()
        d.ok("cuEventRecord", start, stream)
        d.ok("cuMemcpyHtoDAsync_v2", ptr, data, c.c_size_t(1 << 20), stream)
        d.ok("cuEventRecord", end, stream)
        return d.elapsed_ms(start, end)

    normal = min(ms() for _ in range(5))
    arm("slowdev factor=1000 dev=1")
    other = min(ms() for _ in range(5))
    arm("slowdev factor=1000 dev=0")
    slow = ms()
    tool("clear")
    after = min(ms() for _ in range(5))
    assert max(normal, other, after) < slow / 10, (normal, other, slow, after)


@case
def memory_of_the_dead_stays_longer() -> None:
    n = Nvml()
    _, handle = n.handle(0)
    arm("slowteardown 3600s")
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    held = n.used(handle)
    assert held > 0
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.4)
    assert n.used(handle) == held
    tool("clear")
    deadline = time.monotonic() + 30
    while n.used(handle) == held and time.monotonic() < deadline:
        time.sleep(0.02)
    assert n.used(handle) < held


def _attribute(d: Driver, number: int, device: int) -> int:
    value = c.c_int(-1)
    d.ok("cuDeviceGetAttribute", c.byref(value), number, device)
    return value.value


def _lacks(rule: str, attributes: tuple[int, ...], calls: dict[str, tuple[Any, ...]]) -> Driver:
    """The rule is armed for the first device when it returns.

    Args:
        rule: its name.
        attributes: that say of the second device that it has it, and of the first that it has not.
        calls: refused, whatever their arguments.
    """
    d = Driver()
    usual = [_attribute(d, number, 0) for number in attributes]
    assert all(usual), usual
    arm(f"{rule} dev=0")
    assert not any(_attribute(d, number, 0) for number in attributes)
    assert [_attribute(d, number, 1) for number in attributes] == usual
    for name, args in calls.items():
        assert d.call(name, *args) == NOT_SUPPORTED, name
    log = Path(os.environ["HARP_SOFT_VERBOSE"]).read_text()
    for name in calls:
        assert f"fault: {name} answers 801" in log, (
            f"{name}: refused by the rule, not for want of it"
        )
    assert alloc(d) == 0
    assert _attribute(d, 1, 0) == 1024
    tool("clear")
    assert [_attribute(d, number, 0) for number in attributes] == usual
    arm(f"{rule} dev=0")
    return d


@case
def no_virtual_memory_management() -> None:
    handle, size = c.c_uint64(), c.c_size_t(2 << 20)
    reserve = (c.byref(handle), size, c.c_size_t(0), c.c_uint64(0), c.c_uint64(0))
    d = _lacks("novmm", VMM, {
        "cuMemCreate": (c.byref(handle), size, None, c.c_uint64(0)),
        "cuMemAddressReserve": reserve,
        "cuMemMap": (handle, size, c.c_size_t(0), handle, c.c_uint64(0)),
        "cuMemSetAccess": (handle, size, None, c.c_size_t(0)),
        "cuMemGetAllocationGranularity": (c.byref(size), None, 0),
        "cuMemExportToShareableHandle": (None, handle, 1, c.c_uint64(0)),
        "cuMemImportFromShareableHandle": (c.byref(handle), None, 1),
    })  # fmt: skip
    assert context_on(d, 1)[0] == 0
    d.ok("cuMemAddressReserve", *reserve)


@case
def no_pools() -> None:
    out = c.c_uint64()
    _lacks("nopools", (POOLS, 119, 142, 144), {
        "cuMemAllocAsync": (c.byref(out), c.c_size_t(64), None),
        "cuMemAllocAsync_ptsz": (c.byref(out), c.c_size_t(64), None),
        "cuDeviceGetDefaultMemPool": (c.byref(out), 0),
        "cuMemPoolTrimTo": (None, c.c_size_t(0)),
        "cuMemFreeAsync": (c.c_uint64(0), None),
        "cuDeviceGraphMemTrim": (0,),
        "cuGraphAddMemAllocNode": (c.byref(out), None, None, c.c_size_t(0), None),
    })  # fmt: skip


@case
def no_ipc() -> None:
    out, handle = c.create_string_buffer(64), c.c_void_p()
    d = _lacks("noipc", (IPC_EVENT,), {
        "cuIpcGetMemHandle": (out, c.c_uint64(0)),
        "cuIpcGetEventHandle": (out, None),
        "cuIpcOpenEventHandle": (c.byref(handle), None),
        "cuIpcOpenMemHandle_v2": (c.byref(handle), None, 1),
        "cuIpcCloseMemHandle": (c.c_uint64(0),),
    })  # fmt: skip
    interprocess = 4 | 2
    assert d.call("cuEventCreate", c.byref(handle), interprocess) == NOT_SUPPORTED
    d.ok("cuEventCreate", c.byref(handle), 2)
    ptr, capable = d.alloc(64), c.c_ubyte(7)
    d.ok("cuPointerGetAttribute", c.byref(capable), IPC_CAPABLE, ptr)
    assert capable.value == 0
    tool("clear")
    d.ok("cuPointerGetAttribute", c.byref(capable), IPC_CAPABLE, ptr)
    assert capable.value == 1
    d.ok("cuEventCreate", c.byref(handle), interprocess)


@case
def no_managed_memory() -> None:
    out = c.c_uint64()
    d = _lacks("nomanaged", MANAGED, {
        "cuMemAllocManaged": (c.byref(out), c.c_size_t(64), 1),
        "cuMemAdvise": (out, c.c_size_t(64), 1, 0),
        "cuMemPrefetchAsync": (out, c.c_size_t(64), 0, None),
        "cuMemRangeGetAttribute": (c.byref(out), c.c_size_t(8), 1, out, c.c_size_t(64)),
        "cuStreamAttachMemAsync": (None, out, c.c_size_t(64), 1),
    })  # fmt: skip
    log = c.create_string_buffer(2048)
    options, values = (c.c_int * 2)(5, 6), (c.c_void_p * 2)(c.addressof(log), len(log))
    module, library = c.c_void_p(), c.c_void_p()
    load = ("cuModuleLoadDataEx", c.byref(module), MANAGED_VARIABLE, 2, options, values)
    assert d.call(*load) == NOT_SUPPORTED
    assert b"both is managed memory" in log.value, log.value
    by_library = (c.byref(library), MANAGED_VARIABLE, None, None, 0, None, None, 0)
    d.ok("cuLibraryLoadData", *by_library)  # the second device has it
    kernel = d.handle("cuLibraryGetKernel", library, b"k")
    assert d.try_launch(kernel) == NOT_SUPPORTED
    assert context_on(d, 1)[0] == 0
    d.launch(kernel)
    arm("nomanaged")
    assert d.call("cuLibraryLoadData", *by_library) == NOT_SUPPORTED
    tool("clear")
    d.ok("cuCtxSetCurrent", d.ctx)
    d.module(MANAGED_VARIABLE)


@case
def rules_written_by_hand() -> None:
    path = Path(os.environ["HARP_SOFT_DIR"]) / "faults"
    d = Driver()
    arm("fail cuCtxGetDevice 4")
    path.write_text("# mine\nfail cuMemAlloc_v2 2 nth=1 # once\n")
    time.sleep(0.05)
    assert [alloc(d), alloc(d)] == [OUT_OF_MEMORY, 0]
    assert tool("show") == "fail cuMemAlloc_v2 2 nth=1\n"
    path.unlink()
    time.sleep(0.05)
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 0


@case
def a_program_that_goes_elsewhere() -> None:
    """It changes its folder, then its user, who may not look: the machine's rules stay."""
    folder = Path(os.environ["HARP_SOFT_DIR"])
    tool("show")  # makes the machine
    os.chdir(folder.parent)
    os.environ["HARP_SOFT_DIR"] = folder.name
    d = Driver()
    os.environ["HARP_SOFT_DIR"] = str(folder)
    os.chdir("/")
    arm("fail cuCtxGetDevice 4")
    device = c.c_int()
    assert d.call("cuCtxGetDevice", c.byref(device)) == 4
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.seteuid(65534)
        time.sleep(0.02)
        hidden = [d.call("cuCtxGetDevice", c.byref(device)) for _ in range(3)]
        os.seteuid(0)
        assert hidden == [4, 4, 4]
    time.sleep(0.02)
    assert d.call("cuCtxGetDevice", c.byref(device)) == 4
    assert tool("show") == "fail cuCtxGetDevice 4\n"


@case
def arguments_are_kept_while_armed() -> None:
    """The call with the most arguments, and one with a float among them."""
    d = Driver()
    arm("fail cuInit 999 nth=1000000")
    module = d.module()
    mixed, out = d.function(module, "mixed"), d.alloc(64)
    d.launch(mixed, Params(out, c.c_uint8(200), c.c_uint16(60000), c.c_int(-5), c.c_double(2.5)))
    d.sync()
    assert list(d.down(out, 4, "f8")) == [200, 60000, -5, 2.5]
    add1 = d.function(module, "add1")
    data = d.up(np.arange(64, dtype="f4"))
    result = d.alloc(256)
    d.ok("cuFuncSetBlockShape", add1, 64, 1, 1)
    for at, value in ((0, data), (8, result)):
        d.ok("cuParamSetv", add1, at, c.byref(value), 8)
    d.cu.cuParamSetf.argtypes = [c.c_void_p, c.c_int, c.c_float]
    count = float(np.array([64], "u4").view("f4")[0])  # the bits of the number 64
    d.ok("cuParamSetf", add1, 16, count)
    d.ok("cuParamSetSize", add1, 20)
    d.ok("cuLaunchGrid", add1, 1, 1)
    d.sync()
    assert (d.down(result, 64) == np.arange(64) + 1).all()


@case
def many_threads_while_rules_come_and_go() -> None:
    d = Driver()
    seen: list[set[int]] = []
    stop = threading.Event()

    def work() -> None:
        codes = set()
        d.ok("cuCtxSetCurrent", d.ctx)
        while not stop.is_set():
            codes.add(d.call("cuCtxSynchronize"))
        seen.append(codes)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        arm("fail cuCtxSynchronize 7 every=2", "slow cuCtxSynchronize 10us")
        tool("clear")
    stop.set()
    for thread in threads:
        thread.join()
    assert set().union(*seen) == {0, 7}
    assert d.call("cuCtxSynchronize") == 0


@case
def a_fork_while_rules_are_armed() -> None:
    d = Driver()
    arm("fail cuCtxGetDevice 4")
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 4
    pid = os.fork()
    if pid == 0:
        armed = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 4
        arm("fail cuCtxGetDevice 5")
        again = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 5
        tool("clear")
        ended = d.call("cuCtxGetDevice", c.byref(c.c_int())) == 3  # a child is not initialised
        os._exit(0 if armed and again and ended else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert d.call("cuCtxGetDevice", c.byref(c.c_int())) == 0


@case
def what_the_tool_refuses() -> None:
    arm("fail cuInit 3 nth=1000")
    for rule, says in {
        "explode": "no such fault",
        "fail cuMemAllocate 2": "no such function",
        "fail nvmlDeviceGetMemoryInfo 31": "nvmlReturn_t",
        "fail cuInit 77": "CUresult",
        "fail nvmlErrorString 2": "no result",
        "fail cuInit 2 dev=2": "this machine has 2",
        "xid 31 dev=5": "this machine has 2",
        "oom nth=0": "nth=0",
        "slow cuInit 2": "duration",
    }.items():
        said = tool("set", "oom nth=1", rule, status=2)
        assert rule in said
        assert says in said
        assert "remedy" in said or "nth" in rule
    assert tool("show") == "fail cuInit 3 nth=1000\n", "what is refused changes nothing"
    assert "usage" in tool(status=2)
    assert "usage" in tool("set", status=2)
    tool("set", *["oom nth=5"] * 65, status=2)
    tool("clear")
    assert tool("show") == ""
    left = {p.name for p in Path(os.environ["HARP_SOFT_DIR"]).iterdir()}
    assert left == {"state", "slots"}
    shutil.rmtree(os.environ["HARP_SOFT_DIR"])


if __name__ == "__main__":
    CASES[sys.argv[1]]()
    print("passed")
