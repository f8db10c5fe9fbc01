# SPDX-License-Identifier: Apache-2.0
"""A job whose need is in a file, not in its command, and that may grow.

argv: the file. Allocates as many MiB, and as many more as each line of its input says; says "ready"
each time, or the driver's code. Ends with its input, with 3 if it was refused.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0

    def take(mib: int) -> int:
        pointer = ctypes.c_uint64()
        code: int = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(mib << 20))
        print(code or "ready", flush=True)
        return code

    refused = take(int(Path(sys.argv[1]).read_text()))
    for line in sys.stdin:
        refused = take(int(line)) or refused
    sys.exit(3 if refused else 0)


main()
