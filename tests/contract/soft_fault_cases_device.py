# SPDX-License-Identifier: Apache-2.0
"""Cases of faults on request: devices with errors, lost, slow; what NVML hears of it."""

from __future__ import annotations

import ctypes as c
import signal
import subprocess
import sys
import threading
import time

from soft_fault_driver import (
    CASES,
    DOUBLE_BIT,
    ECC,
    GPU_IS_LOST,
    ILLEGAL_ADDRESS,
    LAUNCH_FAILED,
    NO_DEVICE,
    NVLINK,
    OWNER,
    SINGLE_BIT,
    TIMEOUT,
    UNAVAILABLE,
    UNKNOWN,
    XID_EVENT,
    Nvml,
    alloc,
    arm,
    case,
    context_on,
    main,
    probe,
    tool,
)
from soft_mod_driver import Driver


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
    if error in (ILLEGAL_ADDRESS, LAUNCH_FAILED):
        assert status == error, "it broke the process"
        assert probe()[2] == 0, "the device is well"
        return
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


if __name__ == "__main__":
    main()
