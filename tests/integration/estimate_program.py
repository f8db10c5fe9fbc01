# SPDX-License-Identifier: Apache-2.0
"""A job whose need is in a file, not in its command: allocates as many MiB, waits for its input.

argv: the file. Prints "ready", or the driver's code and ends with 3. A run of it is like the one
before to whoever sees its command alone.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    size = ctypes.c_size_t(int(Path(sys.argv[1]).read_text()) << 20)
    if code := cuda.cuMemAlloc_v2(ctypes.byref(pointer), size):
        print(code, flush=True)
        sys.exit(3)
    print("ready", flush=True)
    sys.stdin.read()


main()
