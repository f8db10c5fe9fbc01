# SPDX-License-Identifier: Apache-2.0
"""Which devices the driver API and NVML show."""

from __future__ import annotations

import json

import pynvml as nv
from cuda.bindings import driver as cu

nv.nvmlInit()
handles = [nv.nvmlDeviceGetHandleByIndex(i) for i in range(nv.nvmlDeviceGetCount())]
told: dict[str, object] = {
    "nvml": [{"name": nv.nvmlDeviceGetName(h), "uuid": nv.nvmlDeviceGetUUID(h)} for h in handles]
}
status = cu.cuInit(0)[0]
if status != cu.CUresult.CUDA_SUCCESS:
    told["init"] = status.name
else:
    rows = []
    for i in range(cu.cuDeviceGetCount()[1]):
        device = cu.cuDeviceGet(i)[1]
        raw = bytes(cu.cuDeviceGetUuid(device)[1].bytes).hex()
        dashed = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
        name = cu.cuDeviceGetName(96, device)[1].split(b"\0")[0].decode()
        total_bytes = cu.cuDeviceTotalMem(device)[1]
        rows.append({"name": name, "uuid": f"GPU-{dashed}", "total_bytes": total_bytes})
    told["cuda"] = rows
print(json.dumps(told))
