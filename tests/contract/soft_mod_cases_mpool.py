# SPDX-License-Identifier: Apache-2.0
"""Cases of pools of managed memory, and of what cuMemFreeAsync may free."""

from __future__ import annotations

import ctypes as c
import os
import threading
from typing import Any

from soft_mod_cases_managed import GRANULE, used, view
from soft_mod_cases_pool import (
    DEVICE,
    FD,
    HOST,
    HOST_NUMA,
    INVALID_DEVICE,
    MANAGED,
    NONE,
    NUMA_CURRENT,
    PINNED,
    READWRITE,
    RESERVED,
    USED,
    Access,
    Location,
    Props,
    alloc,
    attribute,
    pointer,
)
from soft_mod_driver import CAPTURE_UNSUPPORTED, INVALID_VALUE, Driver, Params, case, main, np

NOWHERE = 0  # no preferred location
PREFERRED_TYPE, PREFERRED_ID = 5, 6  # CU_MEM_RANGE_ATTRIBUTE_*
USED_HIGH = 8


def create(d: Driver, place: tuple[int, int] = (NOWHERE, 0)) -> c.c_void_p:
    props = Props(MANAGED, 0, Location(*place))
    return d.handle("cuMemPoolCreate", c.byref(props))


def default(d: Driver, place: tuple[int, int] = (NOWHERE, 0)) -> c.c_void_p:
    return d.handle("cuMemGetDefaultMemPool", c.byref(Location(*place)), MANAGED)


def held(d: Driver, pool: c.c_void_p) -> tuple[int, int]:
    return attribute(d, pool, USED), attribute(d, pool, RESERVED)


@case
def a_managed_pool_is_the_hosts_and_the_devices(d: Driver) -> None:
    n = 1000
    add1 = d.function(d.module(), "add1")
    before = used(d)
    for place in ((NOWHERE, 0), (DEVICE, 0), (HOST, 7), (HOST_NUMA, 0)):
        pool, stream = create(d, place), d.stream()
        a, b = alloc(d, 4 * n, stream, pool), alloc(d, 4 * n, stream, pool)
        view(a, n)[:] = np.arange(n)  # the host may from the call on
        for _ in range(3):
            params = Params(a, b, c.c_uint32(n))
            d.launch(add1, params, (4, 1, 1), (256, 1, 1), stream=stream)
            params = Params(b, a, c.c_uint32(n))
            d.launch(add1, params, (4, 1, 1), (256, 1, 1), stream=stream)
        d.ok("cuStreamSynchronize", stream)
        assert (view(a, n) == np.arange(n) + 6).all()
        assert held(d, pool) == (2 * GRANULE, 2 * GRANULE)
        d.ok("cuMemFreeAsync", a, stream)
        d.ok("cuMemFreeAsync", b, stream)
        d.ok("cuStreamSynchronize", stream)
        assert held(d, pool) == (0, 0)
        assert used(d) == before
        d.ok("cuMemPoolDestroy", pool)


@case(waived={"local": "libharp charges a managed pool's allocations when they are made"})
def a_device_is_charged_for_what_lies_on_it(d: Driver) -> None:
    store4 = d.function(d.module(), "store4")
    before = used(d)
    for place in ((NOWHERE, 0), (DEVICE, 0), (HOST, 7), (HOST_NUMA, 0)):
        pool = create(d, place)
        ptr = alloc(d, 64, None, pool)
        assert used(d) == before  # it is nowhere yet
        d.launch(store4, Params(ptr))
        d.sync()
        stays = place[0] in (HOST, HOST_NUMA)  # as preferred: devices reach it there
        assert used(d) == before + (0 if stays else GRANULE)
        d.ok("cuMemFreeAsync", ptr, None)
        d.sync()
        assert used(d) == before


@case
def frees_are_in_stream_order(d: Driver) -> None:
    n = 1000
    pool, stream, gate = create(d), d.stream(), c.c_bool()
    add1 = d.function(d.module(), "add1")
    out = d.alloc(4 * n)
    ptr = alloc(d, 4 * n, stream, pool)
    view(ptr, n)[:] = 5
    hold = c.CFUNCTYPE(None, c.c_void_p)(lambda _: _wait(gate))
    d.ok("cuLaunchHostFunc", stream, hold, None)
    d.launch(add1, Params(ptr, out, c.c_uint32(n)), (4, 1, 1), (256, 1, 1), stream=stream)
    d.ok("cuMemFreeAsync", ptr, stream)  # behind the kernel, which has not begun
    assert held(d, pool) == (0, GRANULE)
    for name in ("cuMemFree_v2", "cuMemFreeAsync"):
        d.fails(INVALID_VALUE, name, ptr, *([stream] if "Async" in name else []))
    d.fails(INVALID_VALUE, "cuMemsetD8_v2", ptr, 0, c.c_size_t(1))
    again = alloc(d, 4 * n, stream, pool)
    assert again.value != ptr.value
    assert held(d, pool) == (GRANULE, 2 * GRANULE)
    d.ok("cuMemPoolTrimTo", pool, c.c_size_t(0))  # cannot take what is still to be freed
    assert held(d, pool) == (GRANULE, 2 * GRANULE)
    gate.value = True
    d.ok("cuStreamSynchronize", stream)
    assert (d.down(out, n) == 6).all()
    assert held(d, pool) == (GRANULE, GRANULE)
    d.ok("cuMemFree_v2", again)
    d.ok("cuMemPoolTrimTo", pool, c.c_size_t(0))
    assert held(d, pool) == (0, 0)
    assert attribute(d, pool, USED_HIGH) == GRANULE


def _wait(gate: c.c_bool) -> None:
    while not gate.value:
        os.sched_yield()


@case
def allocations_alone_keep_a_pool_small(d: Driver) -> None:
    pool, stream = create(d), d.stream()
    gate = c.c_bool(False)
    hold = c.CFUNCTYPE(None, c.c_void_p)(lambda _: _wait(gate))
    d.ok("cuLaunchHostFunc", stream, hold, None)  # no free comes before the gate opens
    opener = threading.Timer(0.2, lambda: setattr(gate, "value", True))
    opener.start()
    for _ in range(300):
        ptr = alloc(d, 1 << 30, stream, pool)  # all at once were more than there is
        d.ok("cuMemFreeAsync", ptr, stream)
    opener.join()
    assert held(d, pool)[0] == 0
    d.ok("cuStreamSynchronize", stream)
    assert held(d, pool) == (0, 0)


@case
def what_a_pointer_of_a_managed_pool_is(d: Driver) -> None:
    pool = create(d, (DEVICE, 0))
    ptr = alloc(d, 5000, None, pool)
    inside = c.c_uint64(ptr.value + 4999)
    assert pointer(d, inside, 1) == 0  # of no context
    assert pointer(d, inside, 2, c.c_int) == 2
    assert pointer(d, inside, 8, c.c_int) == 1  # managed
    assert pointer(d, inside, 11) == ptr.value
    assert pointer(d, inside, 12) == 5000
    assert pointer(d, inside, 14, c.c_int) == 0
    assert pointer(d, inside, 17) == pool.value
    for which, expected in ((PREFERRED_TYPE, DEVICE), (PREFERRED_ID, 0)):
        value = c.c_int(-1)
        size = c.c_size_t(4)
        d.ok("cuMemRangeGetAttribute", c.byref(value), size, which, ptr, c.c_size_t(5000))
        assert value.value == expected, which
    d.ok("cuMemFreeAsync", ptr, None)
    d.sync()


@case
def what_managed_pools_refuse(d: Driver) -> None:
    out, ptr = c.c_void_p(), c.c_uint64()
    here = Location(NOWHERE, 0)
    for wrong in (
        Props(MANAGED, FD, here),
        Props(MANAGED, 0, here, max_size=1 << 30),
        Props(MANAGED, 0, here, usage=2),
        Props(MANAGED, 0, Location(DEVICE, 99)),
        Props(MANAGED, 0, Location(NUMA_CURRENT, 0)),
        Props(MANAGED, 0, Location(HOST_NUMA, 4711)),
    ):
        d.fails(INVALID_VALUE, "cuMemPoolCreate", c.byref(out), c.byref(wrong))
    pool, fd = create(d), c.c_int()
    export = ("cuMemPoolExportToShareableHandle", c.byref(fd), pool, FD, c.c_uint64(0))
    d.fails(INVALID_VALUE, *export)
    ptr = alloc(d, 64, None, pool)
    data = c.create_string_buffer(64)
    d.fails(INVALID_VALUE, "cuMemPoolExportPointer", data, ptr)
    d.fails(INVALID_VALUE, "cuMemFreeAsync", c.c_uint64(ptr.value + 8), None)
    flags, one = c.c_int(), c.c_size_t(1)
    for place in (Location(DEVICE, 0), Location(HOST, 0)):
        d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(place))
        assert flags.value == READWRITE
        d.fails(INVALID_VALUE, "cuMemPoolSetAccess", pool, c.byref(Access(place, NONE)), one)
        d.ok("cuMemPoolSetAccess", pool, c.byref(Access(place, READWRITE)), one)


@case
def graphs_have_no_managed_memory(d: Driver) -> None:
    ptr, stream = c.c_uint64(), d.stream()
    on_device = create(d, (DEVICE, 0))
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    refused = ("cuMemAllocFromPoolAsync", c.byref(ptr), c.c_size_t(64), on_device, stream)
    d.fails(CAPTURE_UNSUPPORTED, *refused)


@case
def current_and_default_managed_pools(d: Driver) -> None:
    out = c.c_void_p()
    seen = {default(d, place).value for place in ((NOWHERE, 0), (DEVICE, 0), (HOST, 0))}
    seen.add(d.handle("cuDeviceGetDefaultMemPool", d.device).value)
    assert len(seen) == 4
    assert default(d, (NOWHERE, 5)).value == default(d).value  # the id says nothing
    d.fails(INVALID_VALUE, "cuMemPoolDestroy", default(d))
    mine, place = create(d, (DEVICE, 0)), Location(DEVICE, 0)
    d.fails(INVALID_VALUE, "cuMemSetMemPool", c.byref(place), PINNED, mine)
    d.fails(INVALID_VALUE, "cuDeviceSetMemPool", d.device, mine)
    d.fails(INVALID_VALUE, "cuMemSetMemPool", c.byref(Location(NOWHERE, 0)), MANAGED, mine)
    d.ok("cuMemSetMemPool", c.byref(place), MANAGED, mine)
    d.ok("cuMemGetMemPool", c.byref(out), c.byref(place), MANAGED)
    assert out.value == mine.value
    plain = alloc(d, 64)  # cuMemAllocAsync's is another
    assert pointer(d, plain, 8, c.c_int) == 0
    d.ok("cuMemPoolDestroy", mine)
    d.ok("cuMemGetMemPool", c.byref(out), c.byref(place), MANAGED)
    assert out.value == default(d, (DEVICE, 0)).value
    lost = Location(DEVICE, 99)
    d.fails(INVALID_DEVICE, "cuMemGetDefaultMemPool", c.byref(out), c.byref(lost), MANAGED)
    d.fails(INVALID_VALUE, "cuMemGetMemPool", c.byref(out), c.byref(lost), MANAGED)


@case
def a_destroyed_managed_pool_waits_for_its_memory(d: Driver) -> None:
    store4 = d.function(d.module(), "store4")
    before, pool = used(d), create(d)
    a, b = alloc(d, 64, None, pool), alloc(d, 64, None, pool)
    d.ok("cuMemPoolDestroy", pool)
    for ptr in (a, b):
        d.launch(store4, Params(ptr))
    d.sync()
    assert used(d) == before + 2 * GRANULE
    d.ok("cuMemFreeAsync", a, None)
    d.ok("cuMemFree_v2", b)
    d.sync()
    assert used(d) == before
    ptr = c.c_uint64()
    gone: Any = ("cuMemAllocFromPoolAsync", c.byref(ptr), c.c_size_t(64), pool, None)
    d.fails(INVALID_VALUE, *gone)


@case
def what_a_module_owns_is_not_freed_in_a_stream(d: Driver) -> None:
    module = d.module(
        b".version 7.0\n.target sm_70\n.address_size 64\n.visible .global .u32 word = 9;\n"
    )
    ptr, _ = d.global_of(module, "word")
    d.fails(INVALID_VALUE, "cuMemFreeAsync", ptr, None)
    d.sync()
    assert d.down(ptr, 1, "u4")[0] == 9


if __name__ == "__main__":
    main()
