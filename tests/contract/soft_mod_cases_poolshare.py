# SPDX-License-Identifier: Apache-2.0
"""Cases of memory pools that several processes use."""

from __future__ import annotations

import array
import ctypes as c
import os
import socket
import subprocess
import sys
from typing import Any

from soft_mod_cases_pool import (
    FABRIC,
    FD,
    RESERVED,
    UNIT,
    USED,
    alloc,
    attribute,
    create,
    pointer,
)
from soft_mod_driver import INVALID_VALUE, NOT_SUPPORTED, SUCCESS, Driver, Params, case, main, np


class Peer:
    """Another process, which runs `role` of this file with a socket."""

    def __init__(self, role: str) -> None:
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, "-B", __file__, f"@{role}", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def send_fd(self, fd: int) -> None:
        socket.send_fds(self.socket, [b"f"], [fd])

    def tell(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self, size: int = 1) -> bytes:
        return self.socket.recv(size, socket.MSG_WAITALL)

    def end(self) -> None:
        self.socket.close()
        assert self.process.wait(60) == 0


def exported(d: Driver, pool: c.c_void_p) -> int:
    fd = c.c_int(-1)
    d.ok("cuMemPoolExportToShareableHandle", c.byref(fd), pool, FD, c.c_uint64(0))
    return fd.value


def imported(d: Driver, fd: int) -> c.c_void_p:
    return d.handle("cuMemPoolImportFromShareableHandle", c.c_void_p(fd), FD, c.c_uint64(0))


def share(d: Driver, ptr: c.c_uint64) -> bytes:
    data = (c.c_ubyte * 64)()
    d.ok("cuMemPoolExportPointer", data, ptr)
    return bytes(data)


def importer(d: Driver, wire: socket.socket) -> None:
    _, fds, _, _ = socket.recv_fds(wire, 1, 1)
    pool = imported(d, fds[0])
    os.close(fds[0])
    before = d.free_bytes()
    data = (c.c_ubyte * 64).from_buffer_copy(wire.recv(64, socket.MSG_WAITALL))
    ptr = c.c_uint64()
    d.ok("cuMemPoolImportPointer", c.byref(ptr), pool, data)
    assert d.free_bytes() == before  # the exporter's
    assert pointer(d, ptr, 12) == 4000
    assert pointer(d, ptr, 17) == pool.value
    assert attribute(d, pool, USED) == 4000
    assert (d.down(ptr, 1000) == np.arange(1000, dtype="f4")).all()
    add1 = d.function(d.module(), "add1")
    d.launch(add1, Params(ptr, ptr, c.c_uint32(1000)), (4, 1, 1), (256, 1, 1))
    d.sync()
    out = c.c_uint64()
    size = c.c_size_t(16)
    d.fails(INVALID_VALUE, "cuMemAllocFromPoolAsync", c.byref(out), size, pool, None)
    d.fails(INVALID_VALUE, "cuDeviceSetMemPool", d.device, pool)
    d.fails(INVALID_VALUE, "cuMemPoolExportPointer", data, ptr)
    fd = c.c_int()
    flags = c.c_uint64(0)
    d.fails(INVALID_VALUE, "cuMemPoolExportToShareableHandle", c.byref(fd), pool, FD, flags)
    wire.sendall(b"d")
    last = wire.recv(1)
    d.ok("cuMemFreeAsync", ptr, None)
    d.sync()
    assert attribute(d, pool, RESERVED) == 0
    if last == b"x":  # destroyed before its last pointer went
        d.ok("cuMemPoolImportPointer", c.byref(ptr), pool, data)
        d.ok("cuMemPoolDestroy", pool)
        d.ok("cuMemFree_v2", ptr)
    wire.sendall(b"d")
    wire.recv(1)


@case
def an_exported_pool_is_used_by_another_process(d: Driver) -> None:
    pool = create(d, FD)
    stream = d.stream()
    alloc(d, 1000, stream, pool)  # so that the shared one is not at the file's start
    ptr = alloc(d, 4000, stream, pool)
    data = np.arange(1000, dtype="f4")
    d.ok("cuMemcpyHtoD_v2", ptr, c.c_void_p(data.ctypes.data), c.c_size_t(4000))
    d.sync()  # a small copy may still be on its way
    peer = Peer("importer")
    fd = exported(d, pool)
    peer.send_fd(fd)
    os.close(fd)
    peer.tell(share(d, ptr))
    assert peer.hear() == b"d"
    assert (d.down(ptr, 1000) == data + 1).all()
    peer.tell(b"x")
    assert peer.hear() == b"d"
    peer.end()
    # documented: such a pool gives nothing back while it exists
    d.ok("cuMemFreeAsync", ptr, stream)
    d.ok("cuStreamSynchronize", stream)
    d.ok("cuMemPoolTrimTo", pool, c.c_size_t(0))
    assert attribute(d, pool, RESERVED) == UNIT


@case
def what_is_imported_outlives_its_maker(d: Driver) -> None:
    """The maker is killed: its bytes stay charged until the importer has let go of them."""
    before = d.free_bytes()
    peer = Peer("maker")
    _, fds, _, _ = socket.recv_fds(peer.socket, 1, 1)
    pool = imported(d, fds[0])
    os.close(fds[0])
    data = (c.c_ubyte * 64).from_buffer_copy(peer.hear(64))
    ptr = c.c_uint64()
    d.ok("cuMemPoolImportPointer", c.byref(ptr), pool, data)
    peer.process.kill()
    peer.process.wait(60)
    _until(lambda: d.free_bytes() == before - UNIT)
    assert (d.down(ptr, 100) == 7).all()
    d.ok("cuMemPoolDestroy", pool)
    d.ok("cuMemFree_v2", ptr)
    _until(lambda: d.free_bytes() == before)


def maker(d: Driver, wire: socket.socket) -> None:
    pool = create(d, FD)
    ptr = alloc(d, 400, pool=pool)
    d.ok("cuMemsetD32_v2", ptr, 0x40E00000, c.c_size_t(100))
    d.sync()
    socket.send_fds(wire, [b"f"], [exported(d, pool)])
    wire.sendall(share(d, ptr))
    wire.recv(1)


def _until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        os.sched_yield()
        c.CDLL(None).usleep(5000)
    raise AssertionError


@case
def sharing_is_checked(d: Driver) -> None:
    plain, pool = create(d), create(d, FD)
    fd, out = c.c_int(), c.c_void_p()
    none = c.c_uint64(0)
    export = "cuMemPoolExportToShareableHandle"
    d.fails(INVALID_VALUE, export, c.byref(fd), plain, FD, none)
    d.fails(INVALID_VALUE, export, None, pool, FD, none)
    d.fails(INVALID_VALUE, export, c.byref(fd), pool, FD, c.c_uint64(1))
    d.fails(INVALID_VALUE, export, c.byref(fd), pool, 0, none)
    d.fails(NOT_SUPPORTED, export, c.byref(fd), pool, FABRIC, none)
    default = d.handle("cuDeviceGetDefaultMemPool", d.device)
    d.fails(INVALID_VALUE, export, c.byref(fd), default, FD, none)
    take = "cuMemPoolImportFromShareableHandle"
    null = os.open("/dev/null", os.O_RDONLY)
    for wrong in (null, -1, 9999):
        d.fails(INVALID_VALUE, take, c.byref(out), c.c_void_p(wrong), FD, none)
    data = (c.c_ubyte * 64)()
    d.fails(INVALID_VALUE, "cuMemPoolExportPointer", data, alloc(d, 16, pool=plain))
    d.fails(INVALID_VALUE, "cuMemPoolExportPointer", data, d.alloc(16))
    ptr = alloc(d, 16, pool=pool)
    d.fails(INVALID_VALUE, "cuMemPoolExportPointer", data, c.c_uint64(ptr.value + 8))
    good = share(d, ptr)
    mine = imported(d, exported(d, pool))  # in the same process, too
    back = c.c_uint64()
    take = "cuMemPoolImportPointer"
    for i in range(64):
        broken = array.array("B", good)
        broken[i] ^= 1
        buffer = (c.c_ubyte * 64).from_buffer(broken)
        d.fails(INVALID_VALUE, take, c.byref(back), mine, buffer)
    whole = (c.c_ubyte * 64).from_buffer_copy(good)
    d.fails(INVALID_VALUE, take, c.byref(back), pool, whole)
    strange = imported(d, exported(d, create(d, FD)))
    d.fails(INVALID_VALUE, take, c.byref(back), strange, whole)
    d.ok(take, c.byref(back), mine, whole)
    assert back.value != ptr.value
    d.ok("cuMemsetD32_v2", back, 5, c.c_size_t(4))
    assert (d.down(ptr, 4, "u4") == 5).all()
    d.ok("cuMemFree_v2", back)
    assert d.call("cuMemFree_v2", back) == INVALID_VALUE
    assert d.call("cuMemFree_v2", ptr) == SUCCESS


if __name__ == "__main__":
    if sys.argv[1].startswith("@"):
        with socket.socket(fileno=int(sys.argv[2])) as end:
            globals()[sys.argv[1][1:]](Driver(), end)
    else:
        main()
