# SPDX-License-Identifier: Apache-2.0
"""Probes of memory: mapping and copying it, and managed memory's faults."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

from harp.probe.driver import (
    MIB,
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
from harp.probe.ptx import TOUCH

__all__ = ["Mapped", "managed", "mapping"]

_SIZE = 256 * MIB
_MANAGED = 64 * MIB
_PAGE = 4096
_ROUNDS = 5


class Mapped:
    """Device memory by the calls of virtual memory management.

    Args:
        size: a multiple of what the driver maps in one piece.
    """

    def __init__(self, size: int) -> None:
        cuda = driver()
        self.size = size
        self.prop = cuda.CUmemAllocationProp()
        self.prop.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self.prop.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self.prop.location.id = 0
        self.access = cuda.CUmemAccessDesc()
        self.access.location = self.prop.location
        self.access.flags = cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE

    def make(self) -> None:
        """Reserve, create, map, allow."""
        self.address = call("cuMemAddressReserve", self.size, 0, 0, 0)
        self.physical = call("cuMemCreate", self.size, self.prop, 0)
        call("cuMemMap", self.address, self.size, 0, self.physical, 0)
        call("cuMemSetAccess", self.address, self.size, [self.access], 1)

    def free(self) -> None:
        """Unmap, release, free."""
        call("cuMemUnmap", self.address, self.size)
        call("cuMemRelease", self.physical)
        call("cuMemAddressFree", self.address, self.size)


def _per_second(size: int, us: float) -> int:
    return int(float(f"{size * 1e6 / us:.4g}"))


def mapping(_library: Library) -> None:
    """What it costs to take memory off the device and to bring it back."""
    cuda = driver()
    context()
    block = Mapped(_SIZE)
    least = cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    say("granularity", int(call("cuMemGetAllocationGranularity", block.prop, least)))
    spent: dict[str, list[float]] = {"map": [], "unmap": [], "out": [], "in": []}
    host = call("cuMemHostAlloc", _SIZE, 0)
    for _ in range(_ROUNDS):
        spent["map"].append(timed_us(block.make))
        here = block.address
        spent["in"].append(timed_us(partial(call, "cuMemcpyHtoD", here, host, _SIZE)))
        spent["out"].append(timed_us(partial(call, "cuMemcpyDtoH", host, here, _SIZE)))
        spent["unmap"].append(timed_us(block.free))
    us = {key: middle(values) for key, values in spent.items()}
    say("map", us["map"])
    say("unmap", us["unmap"])
    say("to_host", _per_second(_SIZE, us["out"]))
    say("to_device", _per_second(_SIZE, us["in"]))
    say("evict", _per_second(_SIZE, us["out"] + us["unmap"]))
    say("restore", _per_second(_SIZE, us["in"] + us["map"]))


def managed(_library: Library) -> None:
    """How fast faults move managed memory."""
    cuda = driver()
    device = context()
    touch, out = kernel(TOUCH, "touch"), call("cuMemAlloc", 8)
    flags = cuda.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL.value
    memory = call("cuMemAllocManaged", _MANAGED, flags)
    pages = _MANAGED // _PAGE
    types = (None, ctypes.c_uint32, None)

    def read_by_device() -> None:
        launch(touch, (memory, pages, out), types, grid=-(-pages // 256), block=256)
        call("cuCtxSynchronize")

    def read_by_host() -> int:
        view = (ctypes.c_ubyte * _MANAGED).from_address(int(memory))
        return sum(view[at] for at in range(0, _MANAGED, _PAGE))

    def by_host() -> None:
        ctypes.memset(int(memory), 1, _MANAGED)

    def by_device() -> None:
        call("cuMemsetD8", memory, 1, _MANAGED)
        call("cuCtxSynchronize")

    by_host()
    call("cuMemsetD8", out, 0, 8)
    read_by_device()
    total = bytearray(8)
    call("cuMemcpyDtoH", total, out, 8)
    seen, wanted = int.from_bytes(total[:4], "little"), pages * 0x01010101 & 0xFFFFFFFF
    if seen != wanted:
        raise Refused(f"a kernel read {seen:#x} of managed memory that is {wanted:#x}")

    def ahead() -> None:
        _ahead(memory, device)
        call("cuCtxSynchronize")

    for key, prepare, work in (
        ("managed_in", by_host, read_by_device),
        ("managed_out", by_device, read_by_host),
        ("managed_prefetch", by_host, ahead),
    ):
        try:
            _move(key, prepare, work)
        except Refused as error:
            say(key, unknown=str(error))


def _move(key: str, prepare: Callable[[], object], work: Callable[[], object]) -> None:
    """How much longer work takes on memory that is away than on memory that is here."""
    first_us, again_us = [], []
    for _ in range(_ROUNDS):
        prepare()
        first_us.append(timed_us(work))
        again_us.append(timed_us(work))
    if min(first_us) > 2 * max(again_us):
        say(key, _per_second(_MANAGED, middle(first_us) - middle(again_us)))
    else:
        say(key, unknown="memory that is away took no longer than memory that is here")


def _ahead(memory: object, device: object) -> None:
    cuda = driver()
    try:
        call("cuMemPrefetchAsync", memory, _MANAGED, device, 0)  # before CUDA 13
    except TypeError:
        where = cuda.CUmemLocation()
        where.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        where.id = 0
        call("cuMemPrefetchAsync", memory, _MANAGED, where, 0, 0)
