# SPDX-License-Identifier: Apache-2.0
"""Keeps the device busy with kernels that only sleep: `sleeper.py KERNEL_US [LAUNCHES]`.

Driver API by ctypes, nothing else. Says {"pid": ...} once its kernel has run. Launches go on until
it is killed (or LAUNCHES are done); every so many it waits for an event of some launches ago, so
that a good number is always queued.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections import deque

KERNEL_US = int(sys.argv[1])
LAUNCHES = int(sys.argv[2]) if len(sys.argv) > 2 else 0
#: launches between two events, and events in flight
BATCH, DEPTH = 16, 4

PTX = f"""
.version 7.8
.target sm_80
.address_size 64
.visible .entry sleeper()
{{
    .reg .pred %p;
    .reg .b32 %r;
    mov.u32 %r, {max(1, KERNEL_US // 50)};
AGAIN:
    nanosleep.u32 50000;
    sub.u32 %r, %r, 1;
    setp.ne.u32 %p, %r, 0;
    @%p bra AGAIN;
    ret;
}}
""".encode()

cuda = ctypes.CDLL("libcuda.so.1")


def do(name: str, *args: object) -> None:
    """Calls the driver and insists on success."""
    status = getattr(cuda, name)(*args)
    if status != 0:
        sys.exit(f"{name}: {status}")


def handle(name: str, *args: object) -> ctypes.c_void_p:
    """Calls a function whose first argument is where a handle goes."""
    out = ctypes.c_void_p()
    do(name, ctypes.byref(out), *args)
    return out


do("cuInit", 0)
device = ctypes.c_int()
do("cuDeviceGet", ctypes.byref(device), 0)
context = handle("cuCtxCreate_v2", 0, device)
module = handle("cuModuleLoadData", PTX)
kernel = handle("cuModuleGetFunction", module, b"sleeper")


def launch() -> None:
    """One kernel of one thread."""
    do("cuLaunchKernel", kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None)


launch()
do("cuCtxSynchronize")
print(json.dumps({"pid": os.getpid()}), flush=True)
events = deque(handle("cuEventCreate", 2) for _ in range(DEPTH))
waiting: deque[ctypes.c_void_p] = deque()
done = 0
while LAUNCHES == 0 or done < LAUNCHES:
    for _ in range(BATCH):
        launch()
    done += BATCH
    if not events:
        do("cuEventSynchronize", waiting[0])
        events.append(waiting.popleft())
    event = events.popleft()
    do("cuEventRecord", event, None)
    waiting.append(event)
do("cuCtxSynchronize")
