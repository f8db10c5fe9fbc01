# SPDX-License-Identifier: Apache-2.0
"""What one context costs: measured once per device model and driver, by a process made for it.

The driver puts its own code and tables next to the first context; how much differs by model and
driver version (some 200 to 600 MiB) and no call tells. So a short-lived process makes a context and
nothing else, and NVML says what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from harp.discovery.nvml import Nvml
from harp.errors import NvmlError
from harp.model import uuid_bytes
from harp.native import scrub

__all__ = ["measure_overhead"]

_TIMEOUT_S = 30.0

#: argv: libcuda's path, the device's UUID in hex. Says "ready" when the context is there.
_PROBE = """
import ctypes, sys
cuda = ctypes.CDLL(sys.argv[1])
def must(code, what):
    if code:
        print(what, "answered", code, flush=True)
        sys.exit(1)
must(cuda.cuInit(0), "cuInit")
count = ctypes.c_int()
must(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
for ordinal in range(count.value):
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    must(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
    must(cuda.cuDeviceGetUuid_v2(uuid, device), "cuDeviceGetUuid_v2")
    if bytes(uuid).hex() == sys.argv[2]:
        context = ctypes.c_void_p()
        must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuCtx")
        print("ready", flush=True)
        sys.stdin.read()
        sys.exit(0)
print("libcuda has no device of this UUID", flush=True)
"""


async def measure_overhead(
    nvml: Nvml, cuda_path: Path, uuid: str, env: Mapping[str, str]
) -> tuple[int, str]:
    """Measure the cost of one context on a device.

    Returns:
        (bytes, ""), or (0, why it could not be measured).
    """
    clean = scrub(env)
    clean.pop("CUDA_VISIBLE_DEVICES", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _PROBE,
        str(cuda_path),
        uuid_bytes(uuid).hex(),
        env=clean,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode().strip()
            if line != "ready":
                return 0, line or f"the probe ended ({await process.wait()})"
            uses = await asyncio.to_thread(nvml.processes, uuid)
    except (TimeoutError, NvmlError) as error:
        return 0, str(error) or "the probe took too long"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    for use in uses:
        if use.pid == process.pid and use.mem_bytes:
            return use.mem_bytes, ""
    return 0, "NVML does not list the probe (another pid namespace?)"
