# SPDX-License-Identifier: Apache-2.0
"""A container's program: runs two kernels, and then tries what a page must not allow.

argv: launches of kernel `add_one`; of `fill` there is one. Prints "ready", then a line of JSON: how
each attempt on the page that the arbiter hands out ended. Waits for input to end.
"""

from __future__ import annotations

import ctypes as C
import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import sys

SIZE = 256 + 256 * 192
HELLO, VERSION, MSG_BYTES = 1, 3, 256
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry add_one(.param .u64 at) {
.reg .b64 %p; .reg .b32 %v;
ld.param.u64 %p, [at];
cvta.to.global.u64 %p, %p;
ld.global.u32 %v, [%p];
add.u32 %v, %v, 1;
st.global.u32 [%p], %v;
ret;
}
.visible .entry fill(.param .u64 at) {
.reg .b64 %p; .reg .b32 %v;
ld.param.u64 %p, [at];
cvta.to.global.u64 %p, %p;
mov.u32 %v, 40;
st.global.u32 [%p], %v;
ret;
}
"""
cuda = C.CDLL("libcuda.so.1")


def must(code: int, what: str) -> None:
    if code:
        print(what, code, flush=True)
        raise SystemExit(3)


def launch(module: C.c_void_p, name: bytes, at: C.c_uint64) -> None:
    function = C.c_void_p()
    must(cuda.cuModuleGetFunction(C.byref(function), module, name), "cuModuleGetFunction")
    parameters = (C.c_void_p * 1)(C.addressof(at))
    code = cuda.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, parameters, None)
    must(code, "cuLaunchKernel")


def run(count: int) -> None:
    device, context, at, value = C.c_int(), C.c_void_p(), C.c_uint64(), C.c_uint32()
    module = C.c_void_p()
    must(cuda.cuInit(0), "cuInit")
    must(cuda.cuDeviceGet(C.byref(device), 0), "cuDeviceGet")
    must(cuda.cuDevicePrimaryCtxRetain(C.byref(context), device), "cuDevicePrimaryCtxRetain")
    must(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    must(cuda.cuMemAlloc_v2(C.byref(at), C.c_size_t(4096)), "cuMemAlloc")
    must(cuda.cuModuleLoadData(C.byref(module), PTX), "cuModuleLoadData")
    launch(module, b"fill", at)
    for _ in range(count):
        launch(module, b"add_one", at)
    must(cuda.cuMemcpyDtoH_v2(C.byref(value), at, C.c_size_t(4)), "cuMemcpyDtoH")
    assert value.value > 40, value.value


def attempt(what: object) -> str:
    try:
        what()  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def attempts() -> dict[str, str]:
    grant = os.environ["HARP_GRANT"]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(f"{grant}/arbiter.sock")
    hello = struct.pack(
        "=HH5IiI4I", VERSION, HELLO, 0, 0, 0, 0, 0, os.getpid(), 0, 2, 0, VERSION, 0
    )
    sock.send(hello.ljust(MSG_BYTES, b"\0"))
    _, fds, _, _ = socket.recv_fds(sock, MSG_BYTES, 4)
    (page,) = fds
    return {
        "mapped": attempt(lambda: mmap.mmap(page, SIZE).close()),
        "cut": attempt(lambda: os.ftruncate(page, 0)),
        "grown": attempt(lambda: os.ftruncate(page, 1 << 30)),
        "written beyond": attempt(lambda: os.pwrite(page, b"x", SIZE)),
        "reserved beyond": attempt(lambda: os.posix_fallocate(page, 0, SIZE + 1)),
        "sealed": attempt(lambda: fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)),
        "in the folder": attempt(lambda: open(f"{grant}/profile", "w").close()),  # noqa: PTH123
    }


def main() -> None:
    run(int(sys.argv[1]))
    print("ready", flush=True)
    print(json.dumps(attempts()), flush=True)
    sys.stdin.read()


main()
