# SPDX-License-Identifier: Apache-2.0
"""Cases of virtual memory management: access of kernels, attributes, sharing, what is charged."""

from __future__ import annotations

import array
import ctypes as c
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_SUPPORTED,
    Driver,
    Params,
    case,
    main,
    np,
)

GRANULE = 2 << 20
PINNED, ON_DEVICE, ON_HOST, HOST_NUMA = 1, 1, 2, 3
NONE, READ, READ_WRITE = 0, 1, 3
POSIX_FD = 1
N = 1000


class Prop(c.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", c.c_int),
        ("handle_types", c.c_int),
        ("where", c.c_int),
        ("id", c.c_int),
        ("win32", c.c_void_p),
        ("compression", c.c_ubyte),
        ("rdma", c.c_ubyte),
        ("usage", c.c_ushort),
        ("reserved", c.c_ubyte * 4),
    )


class Access(c.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("where", c.c_int), ("id", c.c_int), ("flags", c.c_int))


def create(d: Driver, size: int, types: int = 0, where: int = ON_DEVICE, at: int = 0) -> c.c_uint64:
    handle = c.c_uint64()
    prop = Prop(type=PINNED, handle_types=types, where=where, id=at)
    d.ok("cuMemCreate", c.byref(handle), c.c_size_t(size), c.byref(prop), c.c_uint64(0))
    return handle


def reserve(d: Driver, size: int) -> c.c_uint64:
    va = c.c_uint64()
    zero = c.c_uint64(0)
    d.ok("cuMemAddressReserve", c.byref(va), c.c_size_t(size), c.c_size_t(0), zero, zero)
    return va


def map_at(d: Driver, va: c.c_uint64, size: int, handle: c.c_uint64) -> None:
    d.ok("cuMemMap", va, c.c_size_t(size), c.c_size_t(0), handle, c.c_uint64(0))


def allow(d: Driver, va: c.c_uint64, size: int, flags: int, device: int = 0) -> None:
    desc = Access(ON_DEVICE, device, flags)
    d.ok("cuMemSetAccess", va, c.c_size_t(size), c.byref(desc), c.c_size_t(1))


def mapped(d: Driver, size: int, flags: int = READ_WRITE) -> c.c_uint64:
    va, handle = reserve(d, size), create(d, size)
    map_at(d, va, size, handle)
    d.ok("cuMemRelease", handle)
    if flags != NONE:
        allow(d, va, size, flags)
    return va


def add1(d: Driver, source: c.c_uint64, to: c.c_uint64) -> int:
    d.launch(
        d.function(d.module(), "add1"), Params(source, to, c.c_uint32(N)), (4, 1, 1), (256, 1, 1)
    )
    return d.call("cuCtxSynchronize")


@case
def kernels_load_and_store_where_they_may(d: Driver) -> None:
    data = np.arange(N, dtype="f4")
    va = mapped(d, 2 * GRANULE)
    d.ok("cuMemcpyHtoD_v2", va, c.c_void_p(data.ctypes.data), c.c_size_t(data.nbytes))
    out = d.alloc(data.nbytes)
    assert add1(d, va, out) == 0
    assert add1(d, out, va) == 0
    assert (d.down(va, N) == data + 2).all()
    allow(d, va, 2 * GRANULE, READ)
    assert add1(d, va, out) == 0
    assert (d.down(out, N) == data + 3).all()
    assert add1(d, out, va) == ILLEGAL_ADDRESS
    d.fails(ILLEGAL_ADDRESS, "cuMemGetInfo_v2", c.byref(c.c_size_t()), c.byref(c.c_size_t()))


@case
def kernels_without_access_fault(d: Driver) -> None:
    va, out = mapped(d, GRANULE, NONE), d.alloc(4 * N)
    assert add1(d, va, out) == ILLEGAL_ADDRESS


@case
def kernels_on_what_was_unmapped_fault(d: Driver) -> None:
    va, out = mapped(d, GRANULE), d.alloc(4 * N)
    assert add1(d, va, out) == 0
    d.ok("cuMemUnmap", va, c.c_size_t(GRANULE))
    assert add1(d, va, out) == ILLEGAL_ADDRESS


@case
def kernels_meet_unmapping_while_they_run(d: Driver) -> None:
    va, size = reserve(d, GRANULE), c.c_size_t(GRANULE)
    spin = d.function(d.module(SPIN), "spin")
    map_at(d, va, GRANULE, create(d, GRANULE))
    allow(d, va, GRANULE, READ_WRITE)
    d.launch(spin, Params(va))
    time.sleep(0.1)
    d.ok("cuMemUnmap", va, size)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


SPIN = b"""
.version 8.0
.target sm_75
.address_size 64
.visible .entry spin(.param .u64 at)
{
    .reg .pred %p;
    .reg .b32 %r;
    .reg .b64 %d;
    ld.param.u64 %d, [at];
again:
    ld.volatile.global.u32 %r, [%d];
    setp.eq.u32 %p, %r, 0;
    @%p bra again;
    ret;
}
"""


@case
def a_range_grows_in_place(d: Driver) -> None:
    """What expandable segments do: one reservation, piece after piece."""
    va = reserve(d, 64 * GRANULE)
    data = np.arange(GRANULE // 4, dtype="u4")
    for i in range(8):
        at = c.c_uint64(va.value + i * GRANULE)
        map_at(d, at, GRANULE, create(d, GRANULE))
        allow(d, at, GRANULE, READ_WRITE)
        d.ok("cuMemcpyHtoD_v2", at, c.c_void_p(data.ctypes.data), c.c_size_t(data.nbytes))
    middle = c.c_uint64(va.value + GRANULE // 2)
    assert (d.down(middle, len(data), "u4") == np.roll(data, len(data) // 2)).all()
    d.ok("cuMemUnmap", c.c_uint64(va.value + 2 * GRANULE), c.c_size_t(3 * GRANULE))
    at = c.c_uint64(va.value + 3 * GRANULE)
    map_at(d, at, GRANULE, create(d, GRANULE))
    d.fails(INVALID_VALUE, "cuMemsetD8_v2", at, 0, c.c_size_t(1))  # access does not come back


@case
def attributes_say_what_is_true(d: Driver) -> None:
    value = c.c_int()
    for number, expected in {
        102: 1,  # VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        103: 1,  # HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
        104: 0,
        105: 0,
        107: 0,  # GENERIC_COMPRESSION_SUPPORTED
        110: 0,  # GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
        124: 0,  # DMA_BUF_SUPPORTED
        125: 1,  # IPC_EVENT_SUPPORTED
        128: 0,  # HANDLE_TYPE_FABRIC_SUPPORTED
        132: 0,  # MULTICAST_SUPPORTED
        141: 1,  # HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        145: 1,  # HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    }.items():
        d.ok("cuDeviceGetAttribute", c.byref(value), number, d.device)
        assert value.value == expected, number
    d.fails(NOT_SUPPORTED, "cuMulticastCreate", c.byref(c.c_uint64()), c.byref(c.c_uint64()))
    fd, size = c.c_int(), c.c_size_t(GRANULE)
    range_handle = (c.byref(fd), mapped(d, GRANULE), size, 1, c.c_uint64(0))
    d.fails(NOT_SUPPORTED, "cuMemGetHandleForAddressRange", *range_handle)


@case
def pointers_know_their_range_and_mapping(d: Driver) -> None:
    va = reserve(d, 8 * GRANULE)

    def ask(attribute: int, offset: int) -> int:
        value = c.c_uint64(0)
        at = c.c_uint64(va.value + offset)
        d.ok("cuPointerGetAttribute", c.byref(value), attribute, at)
        return value.value

    start, size, is_mapped, handle_types, access = 11, 12, 13, 14, 16
    mapping_size, mapping_base, block, legacy = 18, 19, 20, 10
    assert (ask(start, 5), ask(size, 5), ask(is_mapped, 5)) == (va.value, 8 * GRANULE, 0)
    d.fails(INVALID_VALUE, "cuPointerGetAttribute", c.byref(c.c_int()), 2, va)
    handle = create(d, 2 * GRANULE, POSIX_FD)
    for i in (1, 5):
        map_at(d, c.c_uint64(va.value + i * GRANULE), 2 * GRANULE, handle)
    at = 6 * GRANULE + 100
    assert (ask(start, at), ask(size, at), ask(is_mapped, at)) == (va.value, 8 * GRANULE, 1)
    assert ask(mapping_base, at) == va.value + 5 * GRANULE
    assert ask(mapping_size, at) == 2 * GRANULE
    assert ask(block, at) == ask(block, GRANULE) != 0
    assert ask(handle_types, at) == POSIX_FD
    assert ask(legacy, at) == 0
    assert ask(access, at) == NONE
    allow(d, c.c_uint64(va.value + 5 * GRANULE), 2 * GRANULE, READ)
    assert (ask(access, at), ask(access, GRANULE)) == (READ, NONE)
    base, bytes_ = c.c_uint64(), c.c_size_t()
    at_ptr = c.c_uint64(va.value + at)
    d.ok("cuMemGetAddressRange_v2", c.byref(base), c.byref(bytes_), at_ptr)
    assert (base.value, bytes_.value) == (va.value + 5 * GRANULE, 2 * GRANULE)
    plain = d.alloc(100)
    value = c.c_uint64(0)
    d.ok("cuPointerGetAttribute", c.byref(value), legacy, plain)
    assert value.value == 1


@case
def host_memory_is_mapped_for_both(d: Driver) -> None:
    data = np.arange(N, dtype="f4")
    for where in (ON_HOST, HOST_NUMA):
        va, handle = reserve(d, GRANULE), create(d, GRANULE, where=where)
        map_at(d, va, GRANULE, handle)
        both = (Access * 2)(Access(ON_DEVICE, 0, READ_WRITE), Access(where, 0, READ_WRITE))
        d.ok("cuMemSetAccess", va, c.c_size_t(GRANULE), both, c.c_size_t(2))
        c.memmove(va.value, data.ctypes.data, data.nbytes)
        assert add1(d, va, c.c_uint64(va.value + 65536)) == 0
        seen = np.ctypeslib.as_array((c.c_float * N).from_address(va.value + 65536))
        assert (seen == data + 1).all()


@case
def calls_take_the_time_of_the_model(d: Driver) -> None:
    va, handle = reserve(d, GRANULE), create(d, GRANULE)
    began = time.monotonic_ns()
    for _ in range(20):
        map_at(d, va, GRANULE, handle)
        allow(d, va, GRANULE, READ_WRITE)
        d.ok("cuMemUnmap", va, c.c_size_t(GRANULE))
    assert time.monotonic_ns() - began >= 20 * (2_000 + 40_000 + 30_000)


# ------------------------------------------------------------------------- unrelated processes --
def truth() -> tuple[int, dict[int, int]]:
    """Bytes in use on the device; of each living process, memory beside contexts."""
    tool = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
    said = json.loads(subprocess.run([tool, "--json"], capture_output=True, check=True).stdout)
    per = {p["pid"]: p["mem_bytes"] for p in said["processes"] if p["state"] == "live"}
    return said["devices"][0]["used_bytes"], per


class Memory(c.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", c.c_ulonglong), ("free", c.c_ulonglong), ("used", c.c_ulonglong))


def used(d: Driver) -> tuple[int, int, int]:
    """The same by the ledger, the driver and NVML; the last counts what firmware has, too."""
    free, total, seen = c.c_size_t(), c.c_size_t(), Memory()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    ml, device = c.CDLL("libnvidia-ml.so.1"), c.c_void_p()
    assert ml.nvmlInit_v2() == 0
    assert ml.nvmlDeviceGetHandleByIndex_v2(0, c.byref(device)) == 0
    assert ml.nvmlDeviceGetMemoryInfo(device, c.byref(seen)) == 0
    return truth()[0], total.value - free.value, seen.used


def importer() -> None:
    """Another program, which knows the socket only."""
    link = socket.socket(fileno=int(sys.argv[2]))
    d = Driver()
    _, fds, _, _ = socket.recv_fds(link, 1, 1)
    handle = c.c_uint64()
    d.ok("cuMemImportFromShareableHandle", c.byref(handle), c.c_void_p(fds[0]), POSIX_FD)
    os.close(fds[0])
    va = reserve(d, 4 * GRANULE)
    map_at(d, va, 4 * GRANULE, handle)
    allow(d, va, 4 * GRANULE, READ_WRITE)
    assert add1(d, va, c.c_uint64(va.value + GRANULE)) == 0
    for call in (("cuMemRelease", handle), ("cuMemUnmap", va, c.c_size_t(4 * GRANULE))):
        link.send(b"x")
        link.recv(1)
        d.ok(*call)
    link.send(b"x")
    link.recv(1)


def start_importer() -> tuple[subprocess.Popen[bytes], socket.socket]:
    here, there = socket.socketpair()
    command = [sys.executable, "-B", __file__, "importer", str(there.fileno())]
    child = subprocess.Popen(command, pass_fds=[there.fileno()])
    there.close()
    return child, here


@case
def releasing_takes_longer_the_more_it_is(d: Driver) -> None:
    """An H200 took 15 us for 2 MiB and 586 us for 1 GiB."""
    handle = create(d, 1 << 30)
    begin = time.perf_counter()
    d.ok("cuMemRelease", handle)
    assert time.perf_counter() - begin > 100e-6


def export(d: Driver, handle: c.c_uint64) -> int:
    fd = c.c_int()
    d.ok("cuMemExportToShareableHandle", c.byref(fd), handle, POSIX_FD, c.c_uint64(0))
    return fd.value


@case(waived={"local": "who holds exported memory after its maker is for harpd's reconcile"})
def a_descriptor_shares_memory_with_an_unrelated_process(d: Driver) -> None:
    none = used(d)
    handle, va = create(d, 4 * GRANULE, POSIX_FD), reserve(d, 4 * GRANULE)
    assert [now - was for now, was in zip(used(d), none, strict=True)] == [4 * GRANULE] * 3
    map_at(d, va, 4 * GRANULE, handle)
    allow(d, va, 4 * GRANULE, READ_WRITE)
    data = np.arange(N, dtype="f4")
    d.ok("cuMemcpyHtoD_v2", va, c.c_void_p(data.ctypes.data), c.c_size_t(data.nbytes))
    child, link = start_importer()
    fd = export(d, handle)
    socket.send_fds(link, [b"f"], [fd])
    os.close(fd)
    link.recv(1)
    assert (d.down(c.c_uint64(va.value + GRANULE), N) == data + 1).all()
    all_bytes, per = truth()
    base = used(d)
    assert per[os.getpid()] == 4 * GRANULE
    own = per[child.pid]  # its module's
    assert own <= GRANULE
    link.send(b"x")  # it releases its handle
    link.recv(1)
    assert truth() == (all_bytes, per)
    assert used(d) == base
    d.ok("cuMemRelease", handle)
    d.ok("cuMemUnmap", va, c.c_size_t(4 * GRANULE))
    now, per = truth()  # it has it mapped: it stays, and is shown where it is held
    assert now == all_bytes
    assert used(d) == base
    assert (per[os.getpid()], per[child.pid]) == (0, own + 4 * GRANULE)
    link.send(b"x")  # it unmaps
    link.recv(1)
    assert used(d) == tuple(was - 4 * GRANULE for was in base)
    link.send(b"x")
    assert child.wait() == 0


@case
def a_killed_importer_holds_nothing(d: Driver) -> None:
    before = truth()[0]
    handle = create(d, 4 * GRANULE, POSIX_FD)
    child, link = start_importer()
    fd = export(d, handle)
    socket.send_fds(link, [b"f"], [fd])
    os.close(fd)
    link.recv(1)
    d.ok("cuMemRelease", handle)
    assert truth()[0] > before + 4 * GRANULE  # and its context
    child.send_signal(signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 20
    while truth()[0] > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert truth()[0] == before


@case
def only_whole_descriptors_of_ours_are_taken(d: Driver) -> None:
    handle = c.c_uint64()
    fds = array.array("i", os.pipe())
    for fd in (*fds, 9999):
        take = ("cuMemImportFromShareableHandle", c.byref(handle), c.c_void_p(fd), POSIX_FD)
        d.fails(INVALID_VALUE, *take)


if __name__ == "__main__":
    if sys.argv[1] == "importer":
        importer()
    else:
        main()
