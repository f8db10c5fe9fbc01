# SPDX-License-Identifier: Apache-2.0
"""Probes of the driver's calls: its names, its events, its queue, its slices, its tables."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import struct
import time

from harp.probe.driver import (
    Library,
    Refused,
    call,
    context,
    driver,
    kernel,
    launch,
    middle,
    say,
    timed_us,
)
from harp.probe.ptx import EMPTY, GAPS, SPIN

__all__ = ["about", "events", "hold_slices", "pointers", "queue", "tables"]

#: what libcudart asks for; its identifier is all that is used of it
_CUDART = bytes.fromhex("6bd5fb6c5bf4e74a8987d93912fd9df9")
_ATTRIBUTES = (("vmm", 102), ("pools", 115), ("managed_together", 89), ("preemption", 90))
_ROUNDS, _BATCHES, _BATCH = 9, 100, 8
#: rounds of these that must take longer: by chance so many do in 1 of 50 tries
_SURE = 8
_FULL_US, _MOST_QUEUED, _SPIN_NS = 200_000, 5000, 1_000_000_000
#: shorter gaps in the device's clock are no switches
_GAP_NS, _MOST_GAPS = 100_000, 4096


def about(library: Library) -> None:
    """What it says of itself."""
    version = call("cuDriverGetVersion")
    say("cuda", f"{version // 1000}.{version % 1000 // 10}")
    say("library", str(library.path))
    say("bindings", importlib.metadata.version("cuda-bindings"))
    device, ask = context(), driver().CUdevice_attribute
    for key, number in _ATTRIBUTES:
        try:
            say(key, "yes" if call("cuDeviceGetAttribute", ask(number), device) else "no")
        except Refused as error:
            say(key, unknown=str(error))
    least, greatest = call("cuCtxGetStreamPriorityRange")
    say("priorities", least - greatest + 1)


def _symbols(name: str, library: Library) -> set[int]:
    """Where dlsym finds a function in any of its versions, for any default stream."""
    versions = ("", "_v2", "_v3", "_v4")
    streams = ("", "_ptsz", "_ptds")
    found = {library.address(name + v + s) for v in versions for s in streams}
    return {address for address in found if address}


def pointers(library: Library) -> None:
    """Whether both ways to a function lead to one address.

    Which version cuGetProcAddress gives for a plain name is its own affair; so that its pointer is
    one of those of the function's exported versions is what is asked.
    """
    cuda = driver()
    version = call("cuDriverGetVersion")
    same, differ, hidden, refused = 0, [], [], 0
    names = sorted(
        n for n in dir(cuda) if re.fullmatch(r"cu[A-Z]\w+", n) and callable(getattr(cuda, n))
    )
    for name in names:
        exported = _symbols(name, library)
        for flags in (1, 2):  # the legacy default stream, one for each thread
            status, address, _ = cuda.cuGetProcAddress(name.encode(), version, flags)
            if int(status) or not address:
                refused += 1
            elif address in exported:
                same += 1
            elif exported:
                differ.append(name)
            else:
                hidden.append(name)
    if not same + len(differ) + len(hidden):
        raise Refused("cuGetProcAddress gave no pointer at all")
    say("same", same)
    say("differ", len(differ))
    say("hidden", len(hidden))
    say("refused", refused)
    say("different_names", ", ".join(sorted({*differ, *hidden})[:20]) or "none")


def events(_library: Library) -> None:
    """What calls, launches and events cost."""
    cuda = driver()
    context()
    empty = kernel(EMPTY, "empty")
    first, last = call("cuEventCreate", 0), call("cuEventCreate", 0)

    def bare() -> None:
        for _ in range(_BATCHES * _BATCH):
            cuda.cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)

    def paired() -> None:
        for _ in range(_BATCHES):
            cuda.cuEventRecord(first, 0)
            for _ in range(_BATCH):
                cuda.cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
            cuda.cuEventRecord(last, 0)

    spent: dict[str, list[float]] = {"bare": [], "paired": [], "bare all": [], "paired all": []}
    for number in range(_ROUNDS + 2):
        for name, work in (("bare", bare), ("paired", paired)):
            begin = time.perf_counter_ns()
            work()
            issued = time.perf_counter_ns()
            call("cuCtxSynchronize")
            done = time.perf_counter_ns()
            if number >= 2:  # clocks rise at first, and modules are loaded
                spent[name].append((issued - begin) / 1000)
                spent[f"{name} all"].append((done - begin) / 1000)
    smallest = [
        timed_us(lambda: [cuda.cuDriverGetVersion() for _ in range(500)]) / 500
        for _ in range(_ROUNDS)
    ]
    say("call", middle(smallest))
    say("launch", middle([us / (_BATCHES * _BATCH) for us in spent["bare"]]))
    for key, tail in (("event_pair", ""), ("event_pair_device", " all")):
        pairs = zip(spent["paired" + tail], spent["bare" + tail], strict=True)
        more = [(a - b) / _BATCHES for a, b in pairs]
        if sum(us > 0 for us in more) >= _SURE:
            say(key, middle(more))
        else:
            say(key, unknown="rounds with it took no longer than rounds without")
    _steps(empty, first, last)


def _steps(empty: object, first: object, last: object) -> None:
    """The clock of events, and an empty kernel by it."""
    steps_us = []
    for _ in range(500):
        call("cuEventRecord", first, 0)
        launch(empty)
        call("cuEventRecord", last, 0)
        call("cuEventSynchronize", last)
        steps_us.append(call("cuEventElapsedTime", first, last) * 1000)
    above = [us for us in steps_us if us > 0]
    if above:
        say("event_step", float(f"{min(above):.4g}"))
    else:
        say("event_step", unknown="all 500 were 0")
    call("cuEventRecord", first, 0)
    for _ in range(500):
        launch(empty)
    call("cuEventRecord", last, 0)
    call("cuEventSynchronize", last)
    say("empty_kernel", float(f"{call('cuEventElapsedTime', first, last) * 1000 / 500:.4g}"))


def queue(_library: Library) -> None:
    """How long a queue of launches may become."""
    context()
    empty, spin = kernel(EMPTY, "empty"), kernel(SPIN, "spin")
    launch(empty)
    launch(spin, (1000,), (ctypes.c_uint64,))
    call("cuCtxSynchronize")  # both are loaded
    stream = call("cuStreamCreate", 1)
    launch(spin, (_SPIN_NS,), (ctypes.c_uint64,), stream=stream)
    for number in range(_MOST_QUEUED):
        waited_us = timed_us(lambda: launch(empty, stream=stream))
        if waited_us > _FULL_US:
            say("queue", number)
            say("queue_full", "yes")
            break
        if not int(driver().cuStreamQuery(stream)[0]):
            reason = f"the kernel in front ended after {number} launches, none had waited"
            say("queue", unknown=reason)
            say("queue_full", unknown=reason)
            break
    else:
        say("queue", unknown=f"more than {_MOST_QUEUED}: no launch waited")
        say("queue_full", "no")
    call("cuCtxSynchronize")


def hold_slices(span_ms: int, start_s: float) -> tuple[list[float], list[float]]:
    """Times in us that this process had the device, and had not, while it wanted it.

    Args:
        span_ms: how long it wants it.
        start_s: of the monotonic clock: when the other begins, too.
    """
    context()
    size = 8 + 16 * _MOST_GAPS
    out = call("cuMemAlloc", size)
    call("cuMemsetD8", out, 0, size)
    function = kernel(GAPS, "gaps")
    values = (0, _GAP_NS, out, _MOST_GAPS)
    types = (ctypes.c_uint64, ctypes.c_uint64, None, ctypes.c_uint32)
    launch(function, values, types)
    call("cuCtxSynchronize")  # loaded
    time.sleep(max(0.0, start_s - time.monotonic()))
    launch(function, (span_ms * 1_000_000, *values[1:]), types)
    call("cuCtxSynchronize")
    host = bytearray(size)
    call("cuMemcpyDtoH", host, out, size)
    count = min(_MOST_GAPS, struct.unpack_from("<I", host)[0])
    pairs = [struct.unpack_from("<QQ", host, 8 + 16 * i) for i in range(count)]
    away = [(end - begin) / 1000 for begin, end in pairs]
    had = [(pairs[i + 1][0] - pairs[i][1]) / 1000 for i in range(count - 1)]
    return had, away


def tables(_library: Library) -> None:
    """Whether the driver has libcudart's private table; nothing in it is called."""
    cuda = driver()
    name = ctypes.create_string_buffer(_CUDART, len(_CUDART))
    status, table = cuda.cuGetExportTable(cuda.CUuuid(ctypes.addressof(name)))
    found = not int(status) and int(table or 0)
    say("cudart_table", "yes" if found else f"no: {status.name}")
    say("tables_asked", unknown="it takes such programs, and none of them is here")
