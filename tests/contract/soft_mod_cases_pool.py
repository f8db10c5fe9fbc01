# SPDX-License-Identifier: Apache-2.0
"""Cases of memory pools: the objects, their attributes, access, sharing between processes."""

from __future__ import annotations

import ctypes as c
import mmap
import os
from typing import Any, ClassVar

from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_SUPPORTED,
    SUCCESS,
    Driver,
    Params,
    case,
    main,
    np,
)

MIB = 1 << 20
UNIT = 32 * MIB
OUT_OF_MEMORY, INVALID_DEVICE = 2, 101
RESERVED, USED = 5, 7
DEVICE, HOST, HOST_NUMA, NUMA_CURRENT = 1, 2, 3, 4
PINNED, MANAGED = 1, 2
NO_HANDLE, FD, WIN32, FABRIC = 0, 1, 2, 8
NONE, READ, READWRITE = 0, 1, 3


class Location(c.Structure):
    _fields_ = (("type", c.c_int), ("id", c.c_int))


class Props(c.Structure):
    _fields_: ClassVar = [
        ("alloc_type", c.c_int),
        ("handle_types", c.c_int),
        ("location", Location),
        ("security", c.c_void_p),
        ("max_size", c.c_size_t),
        ("usage", c.c_ushort),
        ("reserved", c.c_ubyte * 54),
    ]


class Access(c.Structure):
    _fields_ = (("location", Location), ("flags", c.c_int))


def props(handles: int = NO_HANDLE, place: tuple[int, int] = (DEVICE, 0), **more: Any) -> Props:
    return Props(PINNED, handles, Location(*place), **more)


def create(d: Driver, *args: Any, **more: Any) -> c.c_void_p:
    return d.handle("cuMemPoolCreate", c.byref(props(*args, **more)))


def attribute(d: Driver, pool: c.c_void_p, which: int) -> int:
    value = c.c_uint64()
    d.ok("cuMemPoolGetAttribute", pool, which, c.byref(value))
    return value.value


def alloc(
    d: Driver, size: int, stream: c.c_void_p | None = None, pool: c.c_void_p | None = None
) -> c.c_uint64:
    out = c.c_uint64()
    if pool is None:
        d.ok("cuMemAllocAsync", c.byref(out), c.c_size_t(size), stream)
    else:
        d.ok("cuMemAllocFromPoolAsync", c.byref(out), c.c_size_t(size), pool, stream)
    return out


def pointer(d: Driver, ptr: c.c_uint64, which: int, kind: Any = c.c_uint64) -> Any:
    value = kind()
    d.ok("cuPointerGetAttribute", c.byref(value), which, ptr)
    return value.value


@case
def kernels_use_memory_in_stream_order(d: Driver) -> None:
    n = 1000
    data = np.arange(n, dtype="f4")
    add1 = d.function(d.module(), "add1")
    for stream in (None, d.stream(), d.stream(0), c.c_void_p(2)):
        a, b = alloc(d, 4 * n, stream), alloc(d, 4 * n, stream)
        source = c.c_void_p(data.ctypes.data)
        d.ok("cuMemcpyHtoDAsync_v2", a, source, c.c_size_t(4 * n), stream)
        params = Params(a, b, c.c_uint32(n))
        d.launch(add1, params, (4, 1, 1), (256, 1, 1), stream=stream)
        back = np.zeros(n, "f4")
        d.ok("cuMemcpyDtoHAsync_v2", c.c_void_p(back.ctypes.data), b, c.c_size_t(4 * n), stream)
        d.ok("cuMemFreeAsync", a, stream)
        d.ok("cuMemFreeAsync", b, stream)
        d.ok("cuStreamSynchronize", stream)
        assert (back == data + 1).all()
    assert attribute(d, d.handle("cuDeviceGetDefaultMemPool", d.device), RESERVED) == 0


@case
def what_is_used_is_counted_as_asked(d: Driver) -> None:
    """To the byte, out of whole units; seen on an H200."""
    pool, asked, held = d.handle("cuDeviceGetDefaultMemPool", d.device), 0, []
    for size in (1, 1024, 1025, MIB):
        held.append(alloc(d, size))
        asked += size
        assert (attribute(d, pool, USED), attribute(d, pool, RESERVED)) == (asked, UNIT)
    for ptr in held:
        d.ok("cuMemFreeAsync", ptr, None)
    assert (attribute(d, pool, USED), attribute(d, pool, RESERVED)) == (0, UNIT)


@case
def the_per_thread_twin_takes_the_threads_stream(d: Driver) -> None:
    out = c.c_uint64()
    d.ok("cuMemAllocAsync_ptsz", c.byref(out), c.c_size_t(4096), None)
    d.ok("cuMemFreeAsync_ptsz", out, None)
    again = c.c_uint64()
    pool = d.handle("cuDeviceGetMemPool", d.device)
    d.ok("cuMemAllocFromPoolAsync_ptsz", c.byref(again), c.c_size_t(4096), pool, c.c_void_p(2))
    assert again.value == out.value  # one stream, two names
    d.ok("cuMemFree_v2", again)


@case
def what_a_device_says_of_pools(d: Driver) -> None:
    value = c.c_int()
    for which, expected in ((115, 1), (119, FD), (142, 1), (144, 1)):
        d.ok("cuDeviceGetAttribute", c.byref(value), which, d.device)
        assert value.value == expected, which


@case
def creation_is_checked(d: Driver) -> None:
    out = c.c_void_p()
    bad = [
        (INVALID_VALUE, Props(0, 0, Location(DEVICE, 0))),
        (INVALID_VALUE, props(place=(DEVICE, 99))),
        (INVALID_VALUE, props(place=(DEVICE, -1))),
        (INVALID_VALUE, props(place=(0, 0))),
        (INVALID_VALUE, props(place=(NUMA_CURRENT, 0))),
        (INVALID_VALUE, props(place=(HOST_NUMA, 4711))),
        (INVALID_VALUE, props(FD, (HOST, 0))),
        (INVALID_VALUE, props(16)),
        (INVALID_VALUE, props(usage=1)),
        (NOT_SUPPORTED, props(usage=2)),
        (NOT_SUPPORTED, props(WIN32)),
        (NOT_SUPPORTED, props(FABRIC)),
    ]
    dirty = props()
    dirty.reserved[53] = 1
    for expected, wrong in [*bad, (INVALID_VALUE, dirty)]:
        d.fails(expected, "cuMemPoolCreate", c.byref(out), c.byref(wrong))
    d.fails(INVALID_VALUE, "cuMemPoolCreate", None, c.byref(props()))
    d.fails(INVALID_VALUE, "cuMemPoolCreate", c.byref(out), None)
    d.fails(INVALID_VALUE, "cuMemPoolDestroy", d.ctx)
    ptr = c.c_uint64()
    size = c.c_size_t(16)
    d.fails(INVALID_VALUE, "cuMemAllocFromPoolAsync", c.byref(ptr), size, d.ctx, None)
    d.fails(INVALID_VALUE, "cuMemAllocFromPoolAsync", c.byref(ptr), size, None, None)


@case
def current_and_default_pools(d: Driver) -> None:
    default = d.handle("cuDeviceGetDefaultMemPool", d.device)
    place = Location(DEVICE, 0)
    out = c.c_void_p()
    d.ok("cuMemGetDefaultMemPool", c.byref(out), c.byref(place), PINNED)
    assert out.value == default.value
    mine = create(d)
    d.ok("cuDeviceSetMemPool", d.device, mine)
    d.ok("cuMemGetMemPool", c.byref(out), c.byref(place), PINNED)
    assert out.value == mine.value
    ptr = alloc(d, 100)
    assert pointer(d, ptr, 17) == mine.value
    assert attribute(d, default, USED) == 0
    d.ok("cuMemFree_v2", ptr)
    d.ok("cuMemSetMemPool", c.byref(place), PINNED, default)
    d.ok("cuDeviceGetMemPool", c.byref(out), d.device)
    assert out.value == default.value
    d.ok("cuDeviceSetMemPool", d.device, mine)
    d.ok("cuMemPoolDestroy", mine)  # and the default one is current again
    d.ok("cuDeviceGetMemPool", c.byref(out), d.device)
    assert out.value == default.value
    d.fails(INVALID_VALUE, "cuMemPoolDestroy", default)
    d.fails(INVALID_DEVICE, "cuDeviceGetDefaultMemPool", c.byref(out), 99)
    d.fails(INVALID_DEVICE, "cuDeviceGetMemPool", c.byref(out), 99)
    d.fails(INVALID_DEVICE, "cuDeviceSetMemPool", 99, default)
    nowhere = Location(DEVICE, 99)
    d.fails(INVALID_DEVICE, "cuMemGetDefaultMemPool", c.byref(out), c.byref(nowhere), PINNED)
    d.fails(INVALID_VALUE, "cuMemGetMemPool", c.byref(out), c.byref(nowhere), PINNED)
    d.fails(INVALID_VALUE, "cuMemGetDefaultMemPool", c.byref(out), c.byref(place), 0)
    host = create(d, place=(HOST, 0))
    d.fails(INVALID_VALUE, "cuDeviceSetMemPool", d.device, host)  # not of that device
    d.fails(INVALID_VALUE, "cuMemSetMemPool", c.byref(place), PINNED, host)
    d.ok("cuMemSetMemPool", c.byref(Location(HOST, 7)), PINNED, host)  # the id says nothing
    d.ok("cuMemGetMemPool", c.byref(out), c.byref(Location(HOST, 0)), PINNED)
    assert out.value == host.value


@case
def what_a_pointer_of_a_pool_is(d: Driver) -> None:
    pool = create(d, FD)
    ptr = alloc(d, 5000, pool=pool)
    inside = c.c_uint64(ptr.value + 4999)
    assert pointer(d, inside, 1) == 0  # of no context
    assert pointer(d, inside, 2, c.c_int) == 2
    assert pointer(d, inside, 9, c.c_int) == 0
    assert pointer(d, inside, 11) == ptr.value
    assert pointer(d, inside, 12) == 5000
    assert pointer(d, inside, 14, c.c_int) == FD
    assert pointer(d, inside, 17) == pool.value
    base, size = c.c_uint64(), c.c_size_t()
    d.ok("cuMemGetAddressRange_v2", c.byref(base), c.byref(size), inside)
    assert (base.value, size.value) == (ptr.value, 5000)
    beyond = c.c_uint64(ptr.value + 5000)
    d.fails(INVALID_VALUE, "cuPointerGetAttribute", c.byref(base), 17, beyond)
    plain = d.alloc(16)
    assert pointer(d, plain, 17) == 0
    d.ok("cuMemFreeAsync", ptr, None)
    d.fails(INVALID_VALUE, "cuMemsetD8_v2", ptr, 0, c.c_size_t(1))


@case
def memory_that_went_back_is_out_of_reach(d: Driver) -> None:
    stream = d.stream()
    ptr = alloc(d, 4096, stream)
    store4 = d.function(d.module(), "store4")
    d.launch(store4, Params(ptr), stream=stream)
    d.ok("cuMemFreeAsync", ptr, stream)
    # freed, not given back: as on hardware, nobody stops it
    d.launch(store4, Params(ptr), stream=d.stream())
    d.sync()
    d.launch(store4, Params(ptr), stream=stream)
    assert d.call("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS


def breaks_the_rules(d: Driver, i: int, faulted: mmap.mmap) -> None:
    size = c.c_size_t(MIB)
    store4 = d.function(d.module(), "store4")
    stream, other, here = d.stream(), d.stream(), d.alloc(MIB)
    ptr = alloc(d, MIB, stream)
    calls: list[Any] = [
        lambda: d.try_launch(store4, Params(ptr), (64, 1, 1), stream=other),
        lambda: d.call("cuMemsetD8Async", ptr, 1, size, other),
        lambda: d.call("cuMemcpyDtoDAsync_v2", here, ptr, size, other),
    ]
    for k in range(12):
        calls[(i + k) % 3]()
    d.call("cuMemFreeAsync", ptr, stream)
    d.call("cuStreamSynchronize", stream)  # its unit goes back
    result = d.call("cuCtxSynchronize")
    assert result in (SUCCESS, ILLEGAL_ADDRESS)
    d.ok("cuCtxDestroy_v2", d.ctx)
    if result == ILLEGAL_ADDRESS:
        faulted[0] = 1


@case
def what_breaks_the_rules_does_not_crash_the_process(d: Driver) -> None:
    """Kernels, fills and copies on memory that goes while they run."""
    faulted = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the children
    for i in range(40):
        d.apart(breaks_the_rules, i, faulted)
    assert faulted[0] == 1


@case
def copies_check_when_they_run(d: Driver) -> None:
    stream, other = d.stream(), d.stream()
    ptr = alloc(d, 4096, stream)
    gate = c.c_bool()
    hold = c.CFUNCTYPE(None, c.c_void_p)(lambda _: _wait(gate))
    d.ok("cuLaunchHostFunc", other, hold, None)
    d.ok("cuMemsetD8Async", ptr, 1, c.c_size_t(4096), other)  # against the rules
    d.ok("cuMemFreeAsync", ptr, stream)
    d.ok("cuStreamSynchronize", stream)
    gate.value = True
    assert d.call("cuStreamSynchronize", other) == ILLEGAL_ADDRESS


def _wait(gate: c.c_bool) -> None:
    while not gate.value:
        os.sched_yield()


@case
def host_pools_are_the_hosts_and_open_to_devices(d: Driver) -> None:
    n = 1000
    add1 = d.function(d.module(), "add1")
    for kind in (HOST, HOST_NUMA):
        before = d.free_bytes()
        pool = create(d, place=(kind, 0))
        flags = c.c_int()
        d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(Location(DEVICE, 0)))
        assert flags.value == NONE
        d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(Location(HOST, 0)))
        assert flags.value == READWRITE
        ptr = alloc(d, 4 * n, pool=pool)
        assert d.free_bytes() == before  # no device is charged
        assert attribute(d, pool, RESERVED) == UNIT
        assert pointer(d, ptr, 2, c.c_int) == 1
        assert pointer(d, ptr, 4) == ptr.value
        data = np.ctypeslib.as_array((c.c_float * n).from_address(ptr.value))
        data[:] = np.arange(n)
        access = Access(Location(DEVICE, 0), READWRITE)
        d.ok("cuMemPoolSetAccess", pool, c.byref(access), c.c_size_t(1))
        out = d.alloc(4 * n)
        d.launch(add1, Params(ptr, out, c.c_uint32(n)), (4, 1, 1), (256, 1, 1))
        d.launch(add1, Params(out, ptr, c.c_uint32(n)), (4, 1, 1), (256, 1, 1))
        d.sync()
        assert (data == np.arange(n, dtype="f4") + 2).all()
        d.ok("cuMemcpyDtoD_v2", out, ptr, c.c_size_t(4 * n))
        assert (d.down(out, n) == data).all()
        host = Access(Location(HOST, 0), NONE)
        d.fails(INVALID_VALUE, "cuMemPoolSetAccess", pool, c.byref(host), c.c_size_t(1))
        d.ok("cuMemFreeAsync", ptr, None)
        d.sync()
        assert attribute(d, pool, RESERVED) == 0
    closed = alloc(d, 16, pool=create(d, place=(HOST, 0)))
    d.launch(d.function(d.module(), "store4"), Params(closed))
    assert d.call("cuCtxSynchronize") == ILLEGAL_ADDRESS


@case
def access_is_checked(d: Driver) -> None:
    pool = d.handle("cuDeviceGetDefaultMemPool", d.device)
    flags = c.c_int()
    d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(Location(DEVICE, 0)))
    assert flags.value == READWRITE
    d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(Location(HOST, 0)))
    assert flags.value == NONE
    one = c.c_size_t(1)
    wrong = [
        (INVALID_VALUE, Access(Location(DEVICE, 0), NONE)),  # its own device's stays
        (INVALID_VALUE, Access(Location(DEVICE, 0), READ)),
        (INVALID_VALUE, Access(Location(HOST, 0), READWRITE)),
        (INVALID_VALUE, Access(Location(DEVICE, 0), 2)),
        (INVALID_DEVICE, Access(Location(DEVICE, 99), READWRITE)),
    ]
    for expected, access in wrong:
        d.fails(expected, "cuMemPoolSetAccess", pool, c.byref(access), one)
    good = Access(Location(DEVICE, 0), READWRITE)
    d.ok("cuMemPoolSetAccess", pool, c.byref(good), one)
    d.fails(INVALID_VALUE, "cuMemPoolSetAccess", pool, None, one)
    d.fails(INVALID_VALUE, "cuMemPoolSetAccess", d.ctx, c.byref(good), one)
    nowhere = Location(DEVICE, 99)
    d.fails(INVALID_DEVICE, "cuMemPoolGetAccess", c.byref(flags), pool, c.byref(nowhere))


@case
def a_sticky_error_stops_pools_too(d: Driver) -> None:
    ptr = alloc(d, 4096)
    d.launch(d.function(d.module(), "store4"), Params(c.c_uint64(64)))
    assert d.call("cuCtxSynchronize") == ILLEGAL_ADDRESS
    d.fails(ILLEGAL_ADDRESS, "cuMemAllocAsync", c.byref(ptr), c.c_size_t(1), None)
    d.fails(ILLEGAL_ADDRESS, "cuMemFreeAsync", ptr, None)
    d.ok("cuCtxDestroy_v2", d.ctx)
    d.fails(ILLEGAL_ADDRESS, "cuCtxCreate_v2", c.byref(c.c_void_p()), 0, d.device)


@case
def no_more_than_there_is(d: Driver) -> None:
    """A pool cannot have more than its device, and what others took is missing."""
    units = d.free_bytes() // UNIT
    exportable = create(d, FD)
    alloc(d, units // 2 * UNIT, pool=exportable)
    ptr = c.c_uint64()
    rest = c.c_size_t((units - units // 2 + 1) * UNIT)
    d.fails(OUT_OF_MEMORY, "cuMemAllocAsync", c.byref(ptr), rest, None)
    alloc(d, (units - units // 2) * UNIT)
    assert d.free_bytes() < UNIT


if __name__ == "__main__":
    main()
