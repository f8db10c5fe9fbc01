# SPDX-License-Identifier: Apache-2.0
"""Cases of two devices in one process: peer access, copies between them."""

from __future__ import annotations

import ctypes as c

from soft_mod_cases_vmm import GRANULE, allow, create, map_at, reserve
from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_CONTEXT,
    INVALID_VALUE,
    Driver,
    Params,
    case,
    main,
    np,
)

ALREADY_ENABLED, NOT_ENABLED = 704, 705
N = 1000
DATA = np.arange(N, dtype="f4")


def other(d: Driver) -> tuple[c.c_void_p, c.c_uint64]:
    """A context on the second device and data in it; the first context is current again."""
    second = d.handle("cuCtxCreate_v2", 0, 1)
    there = d.up(DATA)
    d.sync()  # small copies of pageable memory may still be on their way
    d.ok("cuCtxSetCurrent", d.ctx)
    return second, there


def add1(d: Driver, source: c.c_uint64, to: c.c_uint64) -> int:
    d.launch(
        d.function(d.module(), "add1"), Params(source, to, c.c_uint32(N)), (4, 1, 1), (256, 1, 1)
    )
    return d.call("cuCtxSynchronize")


@case(devices="tiny,tiny")
def kernels_reach_a_peer_that_is_enabled(d: Driver) -> None:
    second, there = other(d)
    here = d.alloc(DATA.nbytes)
    d.fails(NOT_ENABLED, "cuCtxDisablePeerAccess", second)
    d.ok("cuCtxEnablePeerAccess", second, 0)
    d.fails(ALREADY_ENABLED, "cuCtxEnablePeerAccess", second, 0)
    assert add1(d, there, here) == 0
    assert add1(d, here, there) == 0
    assert (d.down(there, N) == DATA + 2).all()
    d.ok("cuCtxDisablePeerAccess", second)
    assert add1(d, there, here) == ILLEGAL_ADDRESS


@case(devices="tiny,tiny")
def access_is_one_way(d: Driver) -> None:
    second, there = other(d)
    here = d.alloc(DATA.nbytes)
    d.ok("cuCtxEnablePeerAccess", second, 0)
    d.ok("cuCtxSetCurrent", second)
    assert add1(d, here, there) == ILLEGAL_ADDRESS
    d.ok("cuCtxSetCurrent", d.ctx)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")  # the fault is the whole process's


@case(devices="tiny,tiny")
def kernels_do_not_reach_what_is_not_enabled(d: Driver) -> None:
    _, there = other(d)
    assert add1(d, there, d.alloc(DATA.nbytes)) == ILLEGAL_ADDRESS


@case(devices="tiny,tiny")
def copies_need_no_peer_access(d: Driver) -> None:
    second, there = other(d)
    here, size = d.alloc(DATA.nbytes), c.c_size_t(DATA.nbytes)
    for name, args in (
        ("cuMemcpyDtoD_v2", (here, there, size)),
        ("cuMemcpy", (here, there, size)),
        ("cuMemcpyPeer", (here, d.ctx, there, second, size)),
        ("cuMemcpyPeerAsync", (here, d.ctx, there, second, size, None)),
    ):
        d.ok("cuMemsetD8_v2", here, 0, size)
        d.ok(name, *args)
        assert (d.down(here, N) == DATA).all(), name
    d.fails(INVALID_CONTEXT, "cuMemcpyPeer", here, None, there, second, size)
    d.fails(INVALID_VALUE, "cuMemcpyPeer", here, d.ctx, c.c_uint64(there.value + 8), second, size)


@case(devices="tiny,tiny")
def mapped_memory_goes_by_its_own_access(d: Driver) -> None:
    second, _ = other(d)
    va, out = reserve(d, GRANULE), d.alloc(DATA.nbytes)
    map_at(d, va, GRANULE, create(d, GRANULE, at=1))
    allow(d, va, GRANULE, 3, device=1)
    d.ok("cuCtxEnablePeerAccess", second, 0)
    size = c.c_size_t(DATA.nbytes)
    d.fails(INVALID_VALUE, "cuMemcpyDtoD_v2", out, va, size)
    allow(d, va, GRANULE, 1, device=0)
    d.ok("cuMemcpyDtoD_v2", out, va, size)
    assert add1(d, va, out) == 0
    assert add1(d, out, va) == ILLEGAL_ADDRESS


if __name__ == "__main__":
    main()
