# SPDX-License-Identifier: Apache-2.0
"""What one context costs: measured once per device model and driver, by a process made for it.

The driver puts its own code and tables next to the first context; how much differs by model and
driver version (some 200 to 600 MiB) and no call tells. So a short-lived process makes a context and
nothing else, and NVML says what it holds.

NVML lists less for a process than the device has less while it is there (H200, driver 580: 543 of
552 MB). Both are taken: the cost is the device's, what is not listed is added to each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.discovery.nvml import Nvml
from harp.errors import NvmlError
from harp.model import uuid_bytes
from harp.native import scrub

__all__ = ["Measured", "measure_overhead"]

_TIMEOUT_S = 30.0
_TEARDOWN_LOOKS = 60
_POLL_S = 0.05
#: a bigger part that is not listed is somebody else's who came at the same time
_MOST_UNLISTED = 0.1

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


@dataclass(frozen=True, slots=True)
class Measured:
    """What a probe found."""

    cost_bytes: int = 0  #: of one context, to the device
    unlisted_bytes: int = 0  #: of that, what NVML does not list under the pid
    problem: str = ""  #: why it could not be measured


async def measure_overhead(
    nvml: Nvml, cuda_path: Path, uuid: str, env: Mapping[str, str]
) -> Measured:
    """Measure the cost of one context on a device."""
    clean = scrub(env)
    clean.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        before = await asyncio.to_thread(nvml.memory_used, uuid)
    except NvmlError as error:
        return Measured(problem=str(error))
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
                return Measured(problem=line or f"the probe ended ({await process.wait()})")
            uses = await asyncio.to_thread(nvml.processes, uuid)
            during = await asyncio.to_thread(nvml.memory_used, uuid)
    except (TimeoutError, NvmlError) as error:
        return Measured(problem=str(error) or "the probe took too long")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    for use in uses:
        if use.pid == process.pid and use.mem_bytes:
            after = await _memory_without(nvml, uuid, process.pid)
            # Who else allocates or frees meanwhile moves one of the two differences, not both.
            unlisted = max(0, min(during - before, during - after) - use.mem_bytes)
            if unlisted > use.mem_bytes * _MOST_UNLISTED:
                unlisted = 0
            return Measured(use.mem_bytes + unlisted, unlisted)
    return Measured(problem="NVML does not list the probe (another pid namespace?)")


async def _memory_without(nvml: Nvml, uuid: str, pid: int) -> int:
    """Bytes in use when a process that ended is off the device."""
    with contextlib.suppress(NvmlError):
        for _ in range(_TEARDOWN_LOOKS):
            if all(u.pid != pid for u in await asyncio.to_thread(nvml.processes, uuid)):
                return await asyncio.to_thread(nvml.memory_used, uuid)
            await asyncio.sleep(_POLL_S)
    return 1 << 62  # not known: nothing is unlisted
