# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, PT017
"""pynvml against the driver API: the same device, the same bytes, the same process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pynvml as nv
from cuda.bindings import driver as cu

MIB = 1 << 20


def do(result):
    assert result[0] == cu.CUresult.CUDA_SUCCESS, result[0]
    return result[1] if len(result) == 2 else result[1:] or None


def own_bytes(handle) -> int:
    """What NVML says this process holds."""
    rows = {row.pid: row for row in nv.nvmlDeviceGetComputeRunningProcesses(handle)}
    return rows[os.getpid()].usedGpuMemory if os.getpid() in rows else 0


def fails(code: int, function, *args: object) -> None:
    try:
        function(*args)
    except nv.NVMLError as error:
        assert error.value == code, error
    else:
        raise AssertionError(f"{function.__name__} succeeded")


def main() -> None:
    fails(nv.NVML_ERROR_UNINITIALIZED, nv.nvmlDeviceGetCount)
    nv.nvmlInit()
    assert nv.nvmlSystemGetCudaDriverVersion() == 13000
    assert int(nv.nvmlSystemGetDriverVersion().split(".")[0]) >= 580
    assert nv.nvmlDeviceGetCount() == 1
    fails(nv.NVML_ERROR_INVALID_ARGUMENT, nv.nvmlDeviceGetHandleByIndex, 1)
    handle = nv.nvmlDeviceGetHandleByIndex(0)
    assert nv.nvmlDeviceGetIndex(handle) == 0
    name = nv.nvmlDeviceGetName(handle)
    assert name.startswith("HARP Software GPU"), name
    uuid = nv.nvmlDeviceGetUUID(handle)
    assert uuid.startswith("GPU-")
    assert nv.nvmlDeviceGetIndex(nv.nvmlDeviceGetHandleByUUID(uuid)) == 0
    memory = nv.nvmlDeviceGetMemoryInfo(handle)
    assert memory.used + memory.free == memory.total
    second = nv.nvmlDeviceGetMemoryInfo(handle, version=nv.nvmlMemory_v2)
    assert second.total == second.used + second.free + second.reserved
    assert own_bytes(handle) == 0
    assert nv.nvmlDeviceGetCudaComputeCapability(handle) == (9, 0)
    bus = nv.nvmlDeviceGetPciInfo(handle).busId
    by_bus = nv.nvmlDeviceGetHandleByPciBusId(bus)
    assert nv.nvmlDeviceGetUUID(by_bus) == uuid
    rates = nv.nvmlDeviceGetUtilizationRates(handle)
    assert 0 <= rates.gpu <= 100
    assert 20 <= nv.nvmlDeviceGetTemperature(handle, nv.NVML_TEMPERATURE_GPU) <= 100
    fails(nv.NVML_ERROR_NOT_SUPPORTED, nv.nvmlDeviceGetFanSpeed, handle)  # it has none

    # The driver's view of the same device.
    do(cu.cuInit(0))
    device = do(cu.cuDeviceGet(0))
    assert do(cu.cuDeviceGetName(96, device)).split(b"\0")[0].decode() == name
    raw = bytes(do(cu.cuDeviceGetUuid(device)).bytes).hex()
    assert uuid.removeprefix("GPU-").replace("-", "") == raw
    do(cu.cuCtxCreate(None, 0, device))
    with_context = own_bytes(handle)
    assert with_context > 0
    free, total = do(cu.cuMemGetInfo())
    pointer = do(cu.cuMemAlloc(300 * MIB))
    assert own_bytes(handle) == with_context + 300 * MIB
    assert do(cu.cuMemGetInfo())[0] == free - 300 * MIB
    after = nv.nvmlDeviceGetMemoryInfo(handle, version=nv.nvmlMemory_v2)
    assert after.used - second.used == with_context + 300 * MIB
    assert after.free == do(cu.cuMemGetInfo())[0]

    # Another process is seen too, and gone when it is gone.
    child = subprocess.Popen(
        [sys.executable, __file__, "hold"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "holding\n"
    rows = {row.pid: row for row in nv.nvmlDeviceGetComputeRunningProcesses(handle)}
    assert set(rows) == {os.getpid(), child.pid}
    assert rows[child.pid].usedGpuMemory == with_context + 64 * MIB
    assert do(cu.cuMemGetInfo())[0] == free - 364 * MIB - with_context
    child.kill()
    child.wait()
    deadline_s = time.monotonic() + 10
    while (
        len(nv.nvmlDeviceGetComputeRunningProcesses(handle)) > 1
        or do(cu.cuMemGetInfo())[0] != free - 300 * MIB
    ):
        seen = do(cu.cuMemGetInfo())[0] - free
        assert time.monotonic() < deadline_s, seen
        time.sleep(0.05)
    do(cu.cuMemFree(pointer))
    assert own_bytes(handle) == with_context
    nv.nvmlShutdown()
    fails(nv.NVML_ERROR_UNINITIALIZED, nv.nvmlDeviceGetCount)
    print(json.dumps({"name": name, "context_bytes": with_context, "total_bytes": total}))


def hold() -> None:
    """Holds 64 MiB until killed."""
    do(cu.cuInit(0))
    do(cu.cuCtxCreate(None, 0, do(cu.cuDeviceGet(0))))
    do(cu.cuMemAlloc(64 * MIB))
    print("holding", flush=True)
    sys.stdin.read()


hold() if sys.argv[1:] == ["hold"] else main()
