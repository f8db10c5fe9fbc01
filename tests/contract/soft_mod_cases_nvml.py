# SPDX-License-Identifier: Apache-2.0
"""Cases of NVML beside the driver API, in one process: events of faults, agreement, clocks."""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pynvml as n
from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    LAUNCH_FAILED,
    MISALIGNED,
    Driver,
    Params,
    case,
    main,
)

NOBODY = 0xFFFFFFFF
ASSERTION = 710
ASSERTS = b"""
.version 7.0
.target sm_70
.address_size 64
.global .align 1 .b8 text[4] = {111, 110, 101, 0};
.extern .func __assertfail
    (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);
.visible .entry asserts ()
{
    .reg .b64 %a;
    .reg .b32 %b;
    mov.u64 %a, text;
    cvta.global.u64 %a, %a;
    mov.u32 %b, 7;
    {
    .param .b64 p0; .param .b64 p1; .param .b32 p2; .param .b64 p3; .param .b64 p4;
    st.param.b64 [p0], %a;
    st.param.b64 [p1], %a;
    st.param.b32 [p2], %b;
    st.param.b64 [p3], %a;
    mov.u64 %a, 1;
    st.param.b64 [p4], %a;
    call.uni __assertfail, (p0, p1, p2, p3, p4);
    }
    ret;
}
"""


def first() -> object:
    """The only device; NVML is ready afterwards."""
    n.nvmlInit()
    return n.nvmlDeviceGetHandleByIndex(0)


def listen(handle: object, types: int = n.nvmlEventTypeXidCriticalError) -> object:
    events = n.nvmlEventSetCreate()
    n.nvmlDeviceRegisterEvents(handle, types, events)
    return events


def silent(events: object, timeout_ms: int = 0) -> bool:
    """Whether nothing comes in time."""
    try:
        n.nvmlEventSetWait_v2(events, timeout_ms)
    except n.NVMLError_Timeout:
        return True
    return False


def refused(error: int, call: Callable[..., object], *args: object) -> None:
    said = 0
    try:
        call(*args)
    except n.NVMLError as told:
        said = told.value
    assert said == error, (call, args, said)


def breaks(d: Driver, kernel: str, params: Params, error: int, xid: int) -> None:
    """A kernel that fails with `error` is told as `xid`, once."""
    handle = first()
    events = listen(handle)
    assert silent(events)
    d.launch(d.function(d.module(ASSERTS) if kernel == "asserts" else d.module(), kernel), params)
    d.fails(error, "cuCtxSynchronize")
    told = n.nvmlEventSetWait_v2(events, 10000)
    assert told.eventType == n.nvmlEventTypeXidCriticalError
    assert told.eventData == xid, told.eventData
    assert (told.gpuInstanceId, told.computeInstanceId) == (NOBODY, NOBODY)
    assert n.nvmlDeviceGetUUID(told.device) == n.nvmlDeviceGetUUID(handle)
    d.fails(error, "cuCtxSynchronize")
    assert silent(events, 50)
    n.nvmlEventSetFree(events)


@case
def a_wild_store_is_xid_31(d: Driver) -> None:
    breaks(d, "store4", Params(c.c_uint64(0x1000)), ILLEGAL_ADDRESS, 31)


@case
def a_misaligned_store_is_xid_13(d: Driver) -> None:
    breaks(d, "store4", Params(c.c_uint64(d.alloc(64).value + 2)), MISALIGNED, 13)


@case
def a_trap_is_xid_13(d: Driver) -> None:
    breaks(d, "fail", Params(), LAUNCH_FAILED, 13)


@case
def an_assertion_is_xid_43(d: Driver) -> None:
    breaks(d, "asserts", Params(), ASSERTION, 43)


@case
def a_waiter_is_woken_by_another_process(_: Driver) -> None:
    events = listen(first())
    child = subprocess.Popen([sys.executable, "-B", __file__, "a_trap_is_xid_13"])
    from_s = time.monotonic()
    told = n.nvmlEventSetWait_v2(events, 60000)
    assert told.eventData == 13
    assert time.monotonic() - from_s < 50
    assert child.wait(60) == 0


@case
def an_event_is_for_one_waiter_and_for_every_set(d: Driver) -> None:
    handle = first()
    mine, other = listen(handle), listen(handle)
    got: list[int] = []

    def wait() -> None:
        got.append(n.nvmlEventSetWait_v2(mine, 60000).eventData)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    d.launch(d.function(d.module(), "fail"), Params())
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")
    for woken in range(1, 4):  # the first event is ours, the others are of programs of their own
        if woken > 1:
            again = [sys.executable, "-B", __file__, "a_trap_is_xid_13"]
            subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
        until_s = time.monotonic() + 50
        while len(got) < woken and time.monotonic() < until_s:
            time.sleep(0.01)
        time.sleep(0.1)
        assert got == [13] * woken
        assert n.nvmlEventSetWait_v2(other, 0).eventData == 13
        assert silent(other)
    for thread in threads:
        thread.join()


@case
def what_was_before_registration_is_not_told(d: Driver) -> None:
    handle = first()
    events = n.nvmlEventSetCreate()
    d.launch(d.function(d.module(), "fail"), Params())
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")
    n.nvmlDeviceRegisterEvents(handle, n.nvmlEventTypeXidCriticalError, events)
    assert silent(events)


@case
def event_calls_are_checked(_: Driver) -> None:
    handle = first()
    supported = n.nvmlDeviceGetSupportedEventTypes(handle)
    for kind in ("XidCriticalError", "DoubleBitEccError", "SingleBitEccError"):
        assert supported & getattr(n, f"nvmlEventType{kind}")
    events = n.nvmlEventSetCreate()
    register = n.nvmlDeviceRegisterEvents
    refused(n.NVML_ERROR_NOT_SUPPORTED, register, handle, n.nvmlEventTypePState, events)
    refused(n.NVML_ERROR_INVALID_ARGUMENT, register, handle, 1 << 40, events)
    from_s = time.monotonic()
    assert silent(events, 100)
    assert 0.09 <= time.monotonic() - from_s < 20
    n.nvmlEventSetFree(events)
    refused(n.NVML_ERROR_INVALID_ARGUMENT, n.nvmlEventSetWait_v2, events, 0)
    refused(n.NVML_ERROR_INVALID_ARGUMENT, n.nvmlEventSetFree, events)


@case
def shutdown_wakes_waiters(_: Driver) -> None:
    events = listen(first())
    codes: list[int] = []

    def wait() -> None:
        try:
            n.nvmlEventSetWait_v2(events, 60000)
        except n.NVMLError as told:
            codes.append(told.value)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    n.nvmlShutdown()
    thread.join(30)
    assert codes == [n.NVML_ERROR_UNINITIALIZED]


def attribute(d: Driver, number: int) -> int:
    out = c.c_int()
    d.ok("cuDeviceGetAttribute", c.byref(out), number, d.device)
    return out.value


@case
def both_apis_say_the_same(d: Driver) -> None:
    handle = first()
    assert n.nvmlDeviceGetMaxClockInfo(handle, n.NVML_CLOCK_SM) * 1000 == attribute(d, 13)
    assert n.nvmlDeviceGetMaxClockInfo(handle, n.NVML_CLOCK_MEM) * 1000 == attribute(d, 36)
    assert n.nvmlDeviceGetMemoryBusWidth(handle) == attribute(d, 37)
    assert n.nvmlDeviceGetPciInfo(handle).bus == attribute(d, 33)
    assert n.nvmlDeviceGetComputeMode(handle) == attribute(d, 20)
    assert n.nvmlDeviceGetCudaComputeCapability(handle) == (attribute(d, 75), attribute(d, 76))
    assert n.nvmlDeviceGetNumGpuCores(handle) % attribute(d, 16) == 0
    assert n.nvmlDeviceGetEccMode(handle) == [attribute(d, 32)] * 2
    version = c.c_int()
    d.ok("cuDriverGetVersion", c.byref(version))
    assert n.nvmlSystemGetCudaDriverVersion() == version.value


def modelled_ns(d: Driver, function: c.c_void_p) -> int:
    """Of one launch, by the engine's own ledger: emulation takes longer than the model."""
    before = ledger_ns()
    d.launch(function, Params(c.c_uint32(20000)), (132, 1, 1), (128, 1, 1))
    d.sync()
    return ledger_ns() - before


def ledger_ns() -> int:
    truth = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
    told = subprocess.run([truth, "--pid", str(os.getpid())], capture_output=True, check=True)
    return int(json.loads(told.stdout)["processes"][0]["modelled_ns"])


SPIN = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry spin (.param .u32 rounds)
{
    .reg .u32 %n;
    .reg .pred %p;
    ld.param.u32 %n, [rounds];
again:
    sub.u32 %n, %n, 1;
    setp.ne.u32 %p, %n, 0;
    @%p bra again;
    ret;
}
"""


@case
def locked_clocks_slow_kernels_down(d: Driver) -> None:
    if os.geteuid() != 0:
        return  # NO_PERMISSION, which test_soft_nvml_settings.py asks for
    handle = first()
    spin = d.function(d.module(SPIN), "spin")
    fast = modelled_ns(d, spin)
    n.nvmlDeviceSetGpuLockedClocks(handle, 345, 990)
    slow = modelled_ns(d, spin)
    assert n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM) == 990
    reasons = n.nvmlDeviceGetCurrentClocksEventReasons(handle)
    assert reasons == n.nvmlClocksEventReasonApplicationsClocksSetting
    n.nvmlDeviceResetGpuLockedClocks(handle)
    assert modelled_ns(d, spin) == fast
    assert n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM) == 1980
    launch_ns = 2000
    assert abs((slow - launch_ns) / (fast - launch_ns) - 2) < 0.01, (fast, slow)


def peers(d: Driver, count: int) -> dict[tuple[int, int], int]:
    """What CUDA says of each pair."""
    can, told = c.c_int(), {}
    for a in range(count):
        for b in range(count):
            d.ok("cuDeviceCanAccessPeer", c.byref(can), a, b)
            told[a, b] = can.value
            if a != b:
                d.ok("cuDeviceGetP2PAttribute", c.byref(can), 2, a, b)  # ACCESS_SUPPORTED
                assert can.value == told[a, b]
    return told


def p2p(a: int, b: int, index: int) -> bool:
    one, other = n.nvmlDeviceGetHandleByIndex(a), n.nvmlDeviceGetHandleByIndex(b)
    status = n.nvmlDeviceGetP2PStatus(one, other, index)
    assert status in {n.NVML_P2P_STATUS_OK, n.NVML_P2P_STATUS_NOT_SUPPORTED}
    return bool(status == n.NVML_P2P_STATUS_OK)


@case(devices="tiny,tiny")
def nvml_and_cuda_agree_on_peers(d: Driver) -> None:
    first()
    assert peers(d, 2) == {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}
    for a, b in ((0, 1), (1, 0)):
        told = [p2p(a, b, index) for index in range(5)]  # READ, WRITE, NVLINK, ATOMICS, PROP
        assert told == [True, True, False, False, True]


@case(devices="tiny,t4-16g")
def boards_that_differ_are_no_peers(d: Driver) -> None:
    first()
    assert set(peers(d, 2).values()) == {0}
    assert not any(p2p(0, 1, index) for index in range(5))


@case(devices="h100-mig-2x40g,h100-80g")
def instances_are_nobodys_peers(d: Driver) -> None:
    first()
    count = c.c_int()
    d.ok("cuDeviceGetCount", c.byref(count))
    assert set(peers(d, count.value).values()) == {0}
    assert n.nvmlDeviceGetCount() == 2
    assert not any(p2p(0, 1, index) for index in range(5))


if __name__ == "__main__":
    main()
