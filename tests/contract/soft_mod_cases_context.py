# SPDX-License-Identifier: Apache-2.0
"""Cases of contexts: several of them, stacks, primary ones, events of whole ones, refusals."""

from __future__ import annotations

import ctypes as c
import threading
from collections.abc import Callable

from soft_mod_driver import (
    CAPTURE_UNSUPPORTED,
    DESTROYED,
    INVALID_CONTEXT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_VALUE,
    LAUNCH_FAILED,
    NOT_FOUND,
    NOT_SUPPORTED,
    PRIMARY_ACTIVE,
    UNSUPPORTED_AFFINITY,
    Driver,
    Params,
    case,
    main,
    np,
)

HOST_FUNCTION = c.CFUNCTYPE(None, c.c_void_p)


GREEN = (
    "cuGreenCtxCreate",
    "cuGreenCtxDestroy",
    "cuCtxFromGreenCtx",
    "cuDeviceGetDevResource",
    "cuCtxGetDevResource",
    "cuGreenCtxGetDevResource",
    "cuDevSmResourceSplitByCount",
    "cuDevResourceGenerateDesc",
    "cuGreenCtxRecordEvent",
    "cuGreenCtxWaitEvent",
    "cuStreamGetGreenCtx",
    "cuGreenCtxStreamCreate",
    "cuGreenCtxGetId",
)


def current(d: Driver) -> int | None:
    return d.handle("cuCtxGetCurrent").value


def in_thread(body: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            body()
        except BaseException as e:  # noqa: BLE001  # told to the thread that waits
            failed.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def limit(d: Driver, which: int) -> int:
    value = c.c_size_t()
    d.ok("cuCtxGetLimit", c.byref(value), which)
    return value.value


def state(d: Driver, device: int = 0) -> tuple[int, int]:
    flags, active = c.c_uint(), c.c_int()
    d.ok("cuDevicePrimaryCtxGetState", device, c.byref(flags), c.byref(active))
    return flags.value, active.value


@case(devices="tiny,tiny")
def contexts_on_two_devices_are_apart(d: Driver) -> None:
    one, two = d.ctx, d.handle("cuCtxCreate_v2", 0, 1)
    device = c.c_int()
    d.ok("cuCtxGetDevice", c.byref(device))
    assert device.value == 1
    d.ok("cuCtxGetDevice_v2", c.byref(device), one)
    assert device.value == 0
    total, free = c.c_size_t(), c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    held = d.alloc(64 << 20)
    after = c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(after), c.byref(total))
    assert free.value - after.value == 64 << 20
    d.ok("cuCtxSetCurrent", one)
    d.ok("cuMemGetInfo_v2", c.byref(after), c.byref(total))
    assert after.value == free.value
    # code and streams of the one do not go with the other
    bump, event = d.function(d.module(), "bump"), d.event()
    d.ok("cuCtxSetCurrent", two)
    stream = d.stream()
    assert d.try_launch(bump, Params(), stream=stream) == INVALID_HANDLE
    d.fails(INVALID_HANDLE, "cuEventRecord", event, stream)
    own = d.event()
    d.ok("cuEventRecord", own, stream)
    d.fails(INVALID_HANDLE, "cuEventElapsedTime", c.byref(c.c_float()), own, event)
    # but streams wait for events across devices, and a stream keeps its own context
    d.launch(d.function(d.module(), "nap"), Params(c.c_uint32(20)), stream=stream)
    d.ok("cuEventRecord", own, stream)
    d.ok("cuCtxSetCurrent", one)
    waiting = d.stream()
    d.ok("cuStreamWaitEvent", waiting, own, 0)
    d.launch(bump, Params(), stream=waiting)
    d.ok("cuStreamSynchronize", waiting)
    d.ok("cuEventQuery", own)
    told = c.c_void_p()
    d.ok("cuStreamGetCtx", stream, c.byref(told))
    assert told.value == two.value
    green = c.c_void_p(1)
    d.ok("cuStreamGetCtx_v2", waiting, c.byref(told), c.byref(green))
    assert (told.value, green.value) == (one.value, None)
    d.fails(INVALID_DEVICE, "cuCtxCreate_v2", c.byref(c.c_void_p()), 0, 2)
    d.ok("cuCtxDestroy_v2", two)
    d.fails(INVALID_HANDLE, "cuStreamQuery", stream)
    d.fails(INVALID_HANDLE, "cuEventQuery", own)
    d.fails(INVALID_VALUE, "cuMemFree_v2", held)


@case
def contexts_of_a_process_fail_together(d: Driver) -> None:
    one, two = d.ctx, d.handle("cuCtxCreate_v2", 0, d.device)
    d.launch(d.function(d.module(), "fail"), Params())
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize_v2", two)
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize_v2", one)
    d.fails(LAUNCH_FAILED, "cuCtxCreate_v2", c.byref(c.c_void_p()), 0, d.device)
    ids = [c.c_uint64(), c.c_uint64()]
    for ctx, number in zip((one, two), ids, strict=True):
        d.ok("cuCtxGetId", ctx, c.byref(number))
    assert ids[0].value != ids[1].value


@case
def a_context_wanders_from_thread_to_thread(d: Driver) -> None:
    stream, out = d.stream(), d.up_now(np.zeros(1, "u4"))
    put = d.function(d.module(), "put")
    popped = d.handle("cuCtxPopCurrent_v2")
    assert popped.value == d.ctx.value
    assert current(d) is None
    d.fails(INVALID_CONTEXT, "cuCtxSynchronize")
    d.fails(INVALID_CONTEXT, "cuStreamSynchronize", stream)

    def elsewhere() -> None:
        assert current(d) is None
        d.fails(INVALID_CONTEXT, "cuCtxPopCurrent_v2", c.byref(c.c_void_p()))
        d.ok("cuCtxPushCurrent_v2", popped)
        d.launch(put, Params(out, c.c_uint32(5)), stream=stream)
        d.ok("cuStreamSynchronize", stream)
        assert d.handle("cuCtxPopCurrent").value == popped.value

    in_thread(elsewhere)
    d.ok("cuCtxPushCurrent", popped)
    assert d.down(out, 1, "u4")[0] == 5
    # a stack of several, one of them twice
    two = d.handle("cuCtxCreate_v2", 0, d.device)
    d.ok("cuCtxPushCurrent_v2", d.ctx)
    assert [d.handle("cuCtxPopCurrent_v2").value for _ in range(3)] == [
        d.ctx.value,
        two.value,
        d.ctx.value,
    ]
    d.ok("cuCtxSetCurrent", two)
    d.ok("cuCtxSetCurrent", d.ctx)  # takes its place
    d.ok("cuCtxSetCurrent", None)
    assert current(d) is None
    d.ok("cuCtxDestroy_v2", two)
    d.fails(INVALID_CONTEXT, "cuCtxPushCurrent_v2", two)
    d.fails(INVALID_CONTEXT, "cuCtxDestroy_v2", two)


@case
def a_context_destroyed_elsewhere_says_so(d: Driver) -> None:
    two = d.handle("cuCtxCreate_v2", 0, d.device)
    in_thread(lambda: d.ok("cuCtxDestroy_v2", two))
    d.fails(DESTROYED, "cuCtxSynchronize")
    d.fails(DESTROYED, "cuMemAlloc_v2", c.byref(c.c_uint64()), c.c_size_t(4))
    assert d.handle("cuCtxPopCurrent_v2").value == two.value
    d.sync()


@case
def uses_are_counted(d: Driver) -> None:
    d.fails(INVALID_VALUE, "cuCtxAttach", c.byref(c.c_void_p()), 1)
    two = d.handle("cuCtxCreate", 0, d.device)
    version = c.c_uint()
    d.ok("cuCtxGetApiVersion", two, c.byref(version))
    assert version.value == 3010
    assert d.handle("cuCtxAttach", 0).value == two.value
    d.fails(INVALID_CONTEXT, "cuCtxDetach", d.ctx)  # not current
    d.ok("cuCtxDetach", two)
    d.sync()
    d.ok("cuCtxDetach", two)
    assert current(d) == d.ctx.value
    d.fails(INVALID_CONTEXT, "cuCtxGetApiVersion", two, c.byref(version))


@case
def flags_are_checked_and_told(d: Driver) -> None:
    told = c.c_uint()
    d.fails(INVALID_VALUE, "cuCtxCreate_v2", c.byref(c.c_void_p()), 3, d.device)
    d.fails(INVALID_VALUE, "cuCtxCreate_v2", c.byref(c.c_void_p()), 256, d.device)
    d.ok("cuCtxSetFlags", 4)
    d.ok("cuCtxGetFlags", c.byref(told))
    assert told.value == 4
    d.fails(INVALID_VALUE, "cuCtxSetFlags", 3)
    d.fails(INVALID_VALUE, "cuCtxSetFlags", 1 << 20)
    affinity = (c.c_int * 2)()
    d.fails(UNSUPPORTED_AFFINITY, "cuCtxGetExecAffinity", affinity, 0)
    d.fails(INVALID_VALUE, "cuCtxGetExecAffinity", affinity, 1)
    shared = c.c_int()
    d.ok("cuCtxSetSharedMemConfig", 2)
    d.ok("cuCtxGetSharedMemConfig", c.byref(shared))
    assert shared.value == 1
    d.fails(INVALID_VALUE, "cuCtxSetSharedMemConfig", 3)
    d.ok("cuCtxResetPersistingL2Cache")
    d.ok("cuProfilerStart")
    d.ok("cuProfilerStop")
    d.fails(NOT_SUPPORTED, "cuFlushGPUDirectRDMAWrites", 0, 100)
    d.fails(INVALID_VALUE, "cuFlushGPUDirectRDMAWrites", 0, 7)
    luid, mask = c.create_string_buffer(8), c.c_uint()
    d.fails(NOT_SUPPORTED, "cuDeviceGetLuid", luid, c.byref(mask), d.device)
    d.fails(NOT_SUPPORTED, "cuDeviceGetNvSciSyncAttributes", luid, d.device, 1)
    width = c.c_size_t()
    d.ok("cuDeviceGetTexture1DLinearMaxWidth", c.byref(width), 0x20, 4, d.device)
    assert width.value == 1 << 28
    d.fails(INVALID_VALUE, "cuDeviceGetTexture1DLinearMaxWidth", c.byref(width), 0x20, 3, d.device)
    d.fails(INVALID_VALUE, "cuDeviceGetTexture1DLinearMaxWidth", c.byref(width), 0x99, 1, d.device)


@case
def primary_contexts_follow_their_retainers(d: Driver) -> None:
    assert state(d) == (0, 0)
    d.ok("cuDevicePrimaryCtxSetFlags", d.device, 2)
    primary = d.handle("cuDevicePrimaryCtxRetain", d.device)
    assert d.handle("cuDevicePrimaryCtxRetain", d.device).value == primary.value
    assert state(d) == (2, 1)
    d.fails(PRIMARY_ACTIVE, "cuDevicePrimaryCtxSetFlags", d.device, 4)
    d.ok("cuDevicePrimaryCtxSetFlags_v2", d.device, 4)
    assert state(d) == (4, 1)
    assert current(d) == d.ctx.value  # retaining makes nothing current
    d.fails(INVALID_CONTEXT, "cuCtxDestroy_v2", primary)
    d.ok("cuDevicePrimaryCtxRelease", d.device)
    d.ok("cuCtxPushCurrent_v2", primary)
    d.sync()
    d.ok("cuDevicePrimaryCtxRelease_v2", d.device)
    assert state(d) == (4, 0)
    assert current(d) == primary.value  # it is not popped
    d.fails(DESTROYED, "cuCtxSynchronize")
    d.fails(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease_v2", d.device)
    assert d.handle("cuDevicePrimaryCtxRetain", d.device).value == primary.value
    d.sync()  # back to life, under the same handle
    d.fails(INVALID_DEVICE, "cuDevicePrimaryCtxRetain", c.byref(c.c_void_p()), 1)


@case
def a_reset_takes_all_but_the_retainers(d: Driver) -> None:
    for _ in range(2):
        primary = d.handle("cuDevicePrimaryCtxRetain", d.device)
    d.ok("cuCtxSetCurrent", primary)
    module, stream, event, ptr = d.module(), d.stream(), d.event(), d.alloc(64)
    bump = d.function(module, "bump")
    ready, go = threading.Event(), threading.Event()
    seen: list[int] = []

    def elsewhere() -> None:
        d.ok("cuCtxSetCurrent", primary)
        d.ok("cuStreamSynchronize", c.c_void_p(2))  # makes its own default stream
        ready.set()
        go.wait()
        seen.append(d.call("cuCtxSynchronize"))
        go.clear()
        ready.set()
        go.wait()
        seen.append(d.call("cuStreamSynchronize", c.c_void_p(2)))

    thread = threading.Thread(target=elsewhere, daemon=True)
    thread.start()
    ready.wait()
    ready.clear()
    d.ok("cuDevicePrimaryCtxReset_v2", d.device)
    assert state(d)[1] == 0
    d.fails(DESTROYED, "cuCtxSynchronize")
    go.set()
    ready.wait()
    # two retainers are there still: this third one brings it back
    assert d.handle("cuDevicePrimaryCtxRetain", d.device).value == primary.value
    d.sync()
    d.fails(INVALID_HANDLE, "cuStreamQuery", stream)
    d.fails(INVALID_HANDLE, "cuEventQuery", event)
    assert d.try_launch(bump, Params()) == INVALID_HANDLE
    d.fails(INVALID_HANDLE, "cuModuleUnload", module)
    d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)
    go.set()
    thread.join()
    assert seen == [DESTROYED, 0]
    for alive in (1, 1, 0):
        d.ok("cuDevicePrimaryCtxRelease_v2", d.device)
        assert state(d)[1] == alive
    d.fails(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease_v2", d.device)
    d.ok("cuDevicePrimaryCtxReset", d.device)  # nothing there: nothing to do


@case
def events_of_whole_contexts(d: Driver) -> None:
    nap = d.function(d.module(), "nap")
    streams = [d.stream(), d.stream(), d.stream(0)]
    first, second, start = d.event(), d.event(), d.event()
    d.ok("cuEventRecord", start, streams[0])
    for times, stream in zip((10, 40, 20), streams, strict=True):
        d.launch(nap, Params(c.c_uint32(times)), stream=stream)
    d.ok("cuCtxRecordEvent", d.ctx, first)
    d.launch(nap, Params(c.c_uint32(100)), stream=streams[0])
    assert 39 < d.elapsed_ms(start, first) < 100
    # what another context submits from now on waits for it, in old streams and new ones
    one, two = d.ctx, d.handle("cuCtxCreate_v2", 0, d.device)
    other, old = d.event(), d.stream()
    bump = d.function(d.module(), "bump")
    d.launch(bump, Params(), stream=old)
    d.ok("cuStreamSynchronize", old)
    d.ok("cuCtxSetCurrent", one)
    d.ok("cuEventRecord", second, streams[0])
    d.fails(INVALID_HANDLE, "cuCtxRecordEvent", two, second)
    d.ok("cuCtxWaitEvent", two, second)
    d.ok("cuCtxSetCurrent", two)
    for stream in (old, d.stream()):
        d.launch(bump, Params(), stream=stream)
        d.ok("cuEventRecord", other, stream)
        d.ok("cuEventSynchronize", other)
        d.ok("cuEventQuery", second)
    # captures forbid both
    captured = d.stream()
    d.ok("cuStreamBeginCapture_v2", captured, 2)
    d.fails(CAPTURE_UNSUPPORTED, "cuCtxRecordEvent", two, other)
    told = c.c_int()
    d.ok("cuStreamIsCapturing", captured, c.byref(told))
    assert told.value == 2


@case
def green_contexts_are_refused_by_name(d: Driver) -> None:
    found, status = c.c_void_p(), c.c_int()
    for name in GREEN:
        address = c.byref(found)
        result = d.call(
            "cuGetProcAddress_v2", name.encode(), address, 13000, c.c_uint64(0), c.byref(status)
        )
        assert (result, found.value, status.value) == (NOT_FOUND, None, 1), name
        d.fails(NOT_SUPPORTED, name, *[None] * 6)


if __name__ == "__main__":
    main()
