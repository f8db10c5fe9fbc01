# SPDX-License-Identifier: Apache-2.0
"""A job that wants a third of a GPU's time for some seconds, then waits for its input to end."""

from __future__ import annotations

import ctypes
import sys
import time

PTX = b"""
.version 7.8
.target sm_80
.address_size 64
.visible .entry sleeper(.param .u32 n)
{
.reg .pred %p;
.reg .b32 %r;
ld.param.u32 %r, [n];
AGAIN:
nanosleep.u32 50000;
sub.u32 %r, %r, 1;
setp.ne.u32 %p, %r, 0;
@%p bra AGAIN;
ret;
}
"""
KERNEL_S, PERIOD_S, LASTS_S = 0.02, 0.06, 3.0


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    loops = ctypes.c_uint32(int(KERNEL_S / 50e-6))
    params = (ctypes.c_void_p * 1)(ctypes.addressof(loops))
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    assert cuda.cuModuleLoadData(ctypes.byref(module), PTX) == 0
    assert cuda.cuModuleGetFunction(ctypes.byref(function), module, b"sleeper") == 0
    ends_s = time.monotonic() + LASTS_S
    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        assert cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, params, None) == 0
        assert cuda.cuCtxSynchronize() == 0
        time.sleep(max(0.0, began_s + PERIOD_S - time.monotonic()))
    print("ready", flush=True)
    sys.stdin.read()


main()
