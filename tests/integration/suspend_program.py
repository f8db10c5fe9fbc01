# SPDX-License-Identifier: Apache-2.0
"""A tenant's program that knows its device memory by heart; argv: MiB. A line in, a line out."""

from __future__ import annotations

import ctypes as c
import random
import sys

cuda = c.CDLL("libcuda.so.1")


def ok(name: str, *args: object) -> None:
    code = getattr(cuda, name)(*args)
    if code:
        print(f"{name} answered {code}", flush=True)
        sys.exit(1)


size = int(sys.argv[1]) << 20
device, ctx, ptr = c.c_int(), c.c_void_p(), c.c_uint64()
ok("cuInit", 0)
ok("cuDeviceGet", c.byref(device), 0)
ok("cuCtxCreate_v2", c.byref(ctx), 0, device)
ok("cuMemAlloc_v2", c.byref(ptr), c.c_size_t(size))
parts = random.Random(size)
want = b"".join(parts.randbytes(1 << 20) for _ in range(size >> 20))
ok("cuMemcpyHtoD_v2", ptr, want, c.c_size_t(size))
stream, word = c.c_void_p(), c.c_uint64()
ok("cuStreamCreate", c.byref(stream), 1)
ok("cuMemAlloc_v2", c.byref(word), c.c_size_t(4))
ok("cuMemsetD32_v2", word, 0, c.c_size_t(1))
ok("cuCtxSynchronize")
print("ready", flush=True)
for line in sys.stdin:
    match line.split():
        case ["same"]:
            have, uuid = c.create_string_buffer(size), (c.c_ubyte * 16)()
            ok("cuMemcpyDtoH_v2", have, ptr, c.c_size_t(size))
            ok("cuDeviceGetUuid", uuid, device)
            print(have.raw == want, bytes(uuid).hex(), flush=True)
        case ["more", mib]:
            more = c.c_uint64()
            code = cuda.cuMemAlloc_v2(c.byref(more), c.c_size_t(int(mib) << 20))
            print("code", code, flush=True)
        case ["busy"]:
            ok("cuStreamWaitValue32_v2", stream, word, c.c_uint(1), c.c_uint(0))
            print("is", flush=True)
        case ["managed"]:
            ok("cuMemAllocManaged", c.byref(c.c_uint64()), c.c_size_t(1 << 20), c.c_uint(1))
            print("has", flush=True)
