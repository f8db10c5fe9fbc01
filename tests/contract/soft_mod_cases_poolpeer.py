# SPDX-License-Identifier: Apache-2.0
"""Cases of pools that two devices use."""

from __future__ import annotations

import ctypes as c

from soft_mod_cases_peer import DATA, N, add1, other
from soft_mod_cases_pool import (
    DEVICE,
    INVALID_DEVICE,
    NONE,
    READ,
    READWRITE,
    Access,
    Location,
    alloc,
    create,
)
from soft_mod_driver import ILLEGAL_ADDRESS, Driver, case, main


def grant(d: Driver, pool: c.c_void_p, flags: int, device: int = 1) -> int:
    access = Access(Location(DEVICE, device), flags)
    return d.call("cuMemPoolSetAccess", pool, c.byref(access), c.c_size_t(1))


def granted(d: Driver, pool: c.c_void_p, device: int = 1) -> int:
    flags = c.c_int()
    d.ok("cuMemPoolGetAccess", c.byref(flags), pool, c.byref(Location(DEVICE, device)))
    return flags.value


@case(devices="tiny,tiny")
def a_pool_opens_to_a_peer_device(d: Driver) -> None:
    """By device, not by context: nothing is enabled between contexts."""
    second, there = other(d)
    pool = create(d)
    early = alloc(d, DATA.nbytes, pool=pool)
    d.sync()
    assert (granted(d, pool), granted(d, pool, 0)) == (NONE, READWRITE)
    assert grant(d, pool, READWRITE) == 0
    late = alloc(d, 33 << 20, pool=pool)  # of another chunk
    d.sync()
    assert granted(d, pool) == READWRITE
    d.ok("cuCtxSetCurrent", second)
    for ptr in (early, late):
        assert add1(d, there, ptr) == 0
        assert add1(d, ptr, there) == 0
        assert (d.down(ptr, N) + 1 == d.down(there, N)).all()
    assert (d.down(there, N) == DATA + 4).all()
    assert grant(d, pool, READ) == 0
    assert add1(d, late, there) == 0
    assert add1(d, there, late) == ILLEGAL_ADDRESS


@case(devices="tiny,tiny")
def a_pool_is_closed_to_others_and_closes_again(d: Driver) -> None:
    second, there = other(d)
    pool = create(d)
    ptr = alloc(d, DATA.nbytes, pool=pool)
    d.sync()
    assert grant(d, pool, READWRITE) == 0
    d.ok("cuCtxSetCurrent", second)
    assert add1(d, there, ptr) == 0
    assert grant(d, pool, NONE) == 0
    assert granted(d, pool) == NONE
    assert add1(d, ptr, there) == ILLEGAL_ADDRESS


@case(devices="tiny,tiny")
def peer_access_of_contexts_does_not_open_a_pool(d: Driver) -> None:
    second, there = other(d)
    ptr = alloc(d, DATA.nbytes, pool=create(d))
    d.sync()
    d.ok("cuCtxSetCurrent", second)
    d.ok("cuCtxEnablePeerAccess", d.ctx, 0)
    assert add1(d, there, ptr) == ILLEGAL_ADDRESS


@case(devices="tiny,tiny")
def copies_between_devices_take_pool_memory(d: Driver) -> None:
    second, there = other(d)
    ptr, size = alloc(d, DATA.nbytes, pool=create(d)), c.c_size_t(DATA.nbytes)
    d.ok("cuMemcpyPeerAsync", ptr, d.ctx, there, second, size, None)
    assert (d.down(ptr, N) == DATA).all()
    d.ok("cuMemFreeAsync", ptr, None)
    d.sync()  # its memory went back


@case(devices="tiny,tiny")
def copies_between_devices_check_when_they_run(d: Driver) -> None:
    second, there = other(d)
    stream, held, size = d.stream(), d.stream(), c.c_size_t(DATA.nbytes)
    ptr = alloc(d, DATA.nbytes, stream)
    gate = d.alloc(4)
    d.ok("cuMemsetD32_v2", gate, 0, c.c_size_t(1))
    d.sync()  # streams that wait for nobody may be faster
    d.ok("cuStreamWaitValue32_v2", held, gate, c.c_uint32(1), 0)
    d.ok("cuMemcpyPeerAsync", ptr, d.ctx, there, second, size, held)  # against the rules
    d.ok("cuMemFreeAsync", ptr, stream)
    d.ok("cuStreamSynchronize", stream)
    d.ok("cuStreamWriteValue32_v2", d.stream(), gate, c.c_uint32(1), 0)
    assert d.call("cuStreamSynchronize", held) == ILLEGAL_ADDRESS


@case(devices="tiny,t4-16g")
def a_pool_does_not_open_to_a_device_that_is_no_peer(d: Driver) -> None:
    can = c.c_int(1)
    d.ok("cuDeviceCanAccessPeer", c.byref(can), 1, 0)
    assert can.value == 0
    pool = create(d)
    assert grant(d, pool, READWRITE) == INVALID_DEVICE
    assert granted(d, pool) == NONE
    assert grant(d, pool, NONE) == 0


if __name__ == "__main__":
    main()
