# SPDX-License-Identifier: Apache-2.0
"""A CUDA program to be recorded: two kernels, pinned memory, a stream, events, an error, a thread.

argv: how often. Prints the sum of what the kernels made.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import threading

TWICE = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry twice(.param .u64 in, .param .u64 out, .param .u32 n)
{
  .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r2, %r2, %r3, %r4;
  setp.ge.u32 %p, %r2, %r1;
  @%p bra END;
  mul.wide.u32 %rd3, %r2, 4;
  add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
  ld.global.u32 %r5, [%rd4];
  add.u32 %r5, %r5, %r5;
  st.global.u32 [%rd5], %r5;
END:
  ret;
}
"""
PTX = (
    TWICE
    + b""".visible .entry next(.param .u64 out, .param .u32 n)
{
  .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r2, %r2, %r3, %r4;
  setp.ge.u32 %p, %r2, %r1;
  @%p bra END;
  mul.wide.u32 %rd2, %r2, 4;
  add.s64 %rd1, %rd1, %rd2;
  ld.global.u32 %r5, [%rd1];
  add.u32 %r5, %r5, 1;
  st.global.u32 [%rd1], %r5;
END:
  ret;
}
\0"""
)
N = 4000
P, U64, ref = ctypes.c_void_p, ctypes.c_uint64, ctypes.byref


def must(code: int) -> None:
    if code:
        print("failed", code, flush=True)
        raise SystemExit(3)


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, module, stream = ctypes.c_int(), P(), P(), P()
    twice, more, host, left, right = P(), P(), P(), U64(), U64()
    must(cuda.cuInit(0))
    must(cuda.cuDeviceGet(ref(device), 0))
    must(cuda.cuCtxCreate_v2(ref(context), 0, device))
    must(cuda.cuModuleLoadData(ref(module), PTX))
    must(cuda.cuModuleGetFunction(ref(twice), module, b"twice"))
    must(cuda.cuModuleGetFunction(ref(more), module, b"next"))
    must(cuda.cuStreamCreate(ref(stream), 1))
    must(cuda.cuMemHostAlloc(ref(host), ctypes.c_size_t(4 * N), 0))
    for pointer in (left, right):
        must(cuda.cuMemAlloc_v2(ref(pointer), ctypes.c_size_t(4 * N)))
    size = ctypes.c_size_t(4 * N)
    total = 0

    def launch(kernel: P, *args: object) -> None:
        slots = (P * len(args))(*[ctypes.cast(ref(a), P) for a in args])
        must(cuda.cuLaunchKernel(kernel, 16, 1, 1, 256, 1, 1, 0, stream, slots, None))

    for turn in range(int(sys.argv[1])):
        ctypes.memmove(host, struct.pack(f"<{N}I", *range(turn, turn + N)), 4 * N)
        must(cuda.cuMemcpyHtoDAsync_v2(left, host, size, stream))
        launch(twice, left, right, ctypes.c_uint32(N))
        launch(more, right, ctypes.c_uint32(N))
        must(cuda.cuStreamSynchronize(stream))
        back = (ctypes.c_uint32 * N)()
        must(cuda.cuMemcpyDtoH_v2(back, right, size))
        total += sum(back)
    begin, end, ms = P(), P(), ctypes.c_float()
    for event in (begin, end):
        must(cuda.cuEventCreate(ref(event), 0))
        must(cuda.cuEventRecord(event, stream))
        launch(more, right, ctypes.c_uint32(N))
    must(cuda.cuEventSynchronize(end))
    must(cuda.cuEventElapsedTime(ref(ms), begin, end))
    assert cuda.cuMemAlloc_v2(ref(U64()), ctypes.c_size_t(1 << 50)) == 2

    def other() -> None:
        must(cuda.cuCtxSetCurrent(context))
        must(cuda.cuMemsetD8_v2(left, 7, size))
        must(cuda.cuCtxSynchronize())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    must(cuda.cuMemFreeHost(host))
    for pointer in (left, right):
        must(cuda.cuMemFree_v2(pointer))
    must(cuda.cuModuleUnload(module))
    must(cuda.cuCtxDestroy_v2(context))
    print(total)


if __name__ == "__main__":
    main()
