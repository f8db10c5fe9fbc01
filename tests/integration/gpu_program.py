# SPDX-License-Identifier: Apache-2.0
"""A CUDA program that knows nothing of HARP: makes a context, allocates, waits for input to end.

argv: MiB to allocate; on how many devices (default 1). Prints "ready", or "<call> <code>" and ends
with 3.
"""

from __future__ import annotations

import ctypes
import sys


def must(code: int, what: str) -> None:
    if code:
        print(what, code, flush=True)
        raise SystemExit(3)


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    must(cuda.cuInit(0), "cuInit")
    size_bytes = int(sys.argv[1]) << 20
    for ordinal in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        must(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        retain = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        must(retain, "cuDevicePrimaryCtxRetain")
        must(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        if size_bytes:
            size = ctypes.c_size_t(size_bytes)
            must(cuda.cuMemAlloc_v2(ctypes.byref(pointer), size), "cuMemAlloc")
    print("ready", flush=True)
    sys.stdin.read()


main()
