# SPDX-License-Identifier: Apache-2.0
"""Calls every nvmlDeviceGet* of pynvml on board 0; prints what each said.

Run in a process of its own. A function that is neither asked with the device alone nor in ARGS
fails the run, so that a newer pynvml cannot add one unseen.
"""

from __future__ import annotations

import ctypes as c
import inspect
import json
import os
from collections.abc import Callable
from typing import Any

import pynvml as n

UUID = "GPU-00000000-0000-0000-0000-000000000000"


def versioned(name: str, version: int = 1) -> Any:
    """A struct whose first word is its version."""
    struct = getattr(n, name)()
    struct.version = c.sizeof(struct) | version << 24
    return struct


def ref() -> Any:
    return c.byref(c.c_uint(0))


#: Arguments after the device; a function makes them fresh.
ARGS = {
    "nvmlDeviceGetAPIRestriction": lambda: [n.NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS],
    "nvmlDeviceGetAccountingStats": lambda: [os.getpid()],
    "nvmlDeviceGetAccountingStats_v2": lambda: [os.getpid()],
    "nvmlDeviceGetAdaptiveTgpModeInfo_v1": lambda: [n.c_nvmlAdaptiveTgpModeInfo_v1_t()],
    "nvmlDeviceGetApplicationsClock": lambda: [n.NVML_CLOCK_SM],
    "nvmlDeviceGetBankRemapperStatus_v1": lambda: [n.c_nvmlEccBankRemapperStatus_v1_t()],
    "nvmlDeviceGetCapabilities": lambda: [c.byref(versioned("c_nvmlDeviceCapabilities_v1_t"))],
    "nvmlDeviceGetClock": lambda: [n.NVML_CLOCK_SM, n.NVML_CLOCK_ID_CURRENT],
    "nvmlDeviceGetClockInfo": lambda: [n.NVML_CLOCK_SM],
    "nvmlDeviceGetClockOffsets": lambda: [c.byref(versioned("c_nvmlClockOffset_t"))],
    "nvmlDeviceGetConfComputeGpuAttestationReport": lambda: [(c.c_ubyte * 32)()],
    "nvmlDeviceGetCpuAffinity": lambda: [4],
    "nvmlDeviceGetCpuAffinityWithinScope": lambda: [4, n.NVML_AFFINITY_SCOPE_NODE],
    "nvmlDeviceGetDefaultApplicationsClock": lambda: [n.NVML_CLOCK_SM],
    "nvmlDeviceGetDetailedEccErrors": lambda: [0, 0],
    "nvmlDeviceGetEncoderCapacity": lambda: [n.NVML_ENCODER_QUERY_H264],
    "nvmlDeviceGetFanControlPolicy_v2": lambda: [0],
    "nvmlDeviceGetFanSpeed_v2": lambda: [0],
    "nvmlDeviceGetFieldValues": lambda: [[n.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION]],
    "nvmlDeviceGetGpuFabricInfo": lambda: [c.byref(n.c_nvmlGpuFabricInfo_t())],
    "nvmlDeviceGetGpuFabricInfoV": lambda: [c.byref(n.c_nvmlGpuFabricInfo_v3_t())],
    "nvmlDeviceGetGpuFabricInfo_v4": lambda: [c.byref(n.c_nvmlGpuFabricInfo_v4_t())],
    "nvmlDeviceGetGpuInstanceById": lambda: [1],
    "nvmlDeviceGetGpuInstancePossiblePlacements": lambda: [9, None, ref()],
    "nvmlDeviceGetGpuInstanceProfileInfo": lambda: [n.NVML_GPU_INSTANCE_PROFILE_3_SLICE],
    "nvmlDeviceGetGpuInstanceProfileInfoV": lambda: [n.NVML_GPU_INSTANCE_PROFILE_3_SLICE],
    "nvmlDeviceGetGpuInstanceProfileInfoById": lambda: [9],
    "nvmlDeviceGetGpuInstanceProfileInfoByIdV": lambda: [9],
    "nvmlDeviceGetGpuInstanceRemainingCapacity": lambda: [9],
    "nvmlDeviceGetGpuInstances": lambda: [9, (n.c_nvmlGpuInstance_t * 7)(), ref()],
    "nvmlDeviceGetInforomVersion": lambda: [n.NVML_INFOROM_ECC],
    "nvmlDeviceGetMaxClockInfo": lambda: [n.NVML_CLOCK_SM],
    "nvmlDeviceGetMaxCustomerBoostClock": lambda: [n.NVML_CLOCK_SM],
    "nvmlDeviceGetMemoryAffinity": lambda: [4, n.NVML_AFFINITY_SCOPE_NODE],
    "nvmlDeviceGetMemoryErrorCounter": lambda: [0, 0, n.NVML_MEMORY_LOCATION_DRAM],
    "nvmlDeviceGetMemoryLimits_v1": lambda: [n.c_nvmlGetMemoryLimits_v1_t()],
    "nvmlDeviceGetMigDeviceHandleByIndex": lambda: [0],
    "nvmlDeviceGetMinMaxClockOfPState": lambda: [n.NVML_CLOCK_SM, n.NVML_PSTATE_0],
    "nvmlDeviceGetNvLinkCapability": lambda: [0, 0],
    "nvmlDeviceGetNvLinkErrorCounter": lambda: [0, 0],
    "nvmlDeviceGetNvLinkInfo": lambda: [versioned("c_nvmlNvLinkInfo_v1_t")],
    "nvmlDeviceGetNvLinkRemoteDeviceType": lambda: [0],
    "nvmlDeviceGetNvLinkRemotePciInfo": lambda: [0],
    "nvmlDeviceGetNvLinkState": lambda: [0],
    "nvmlDeviceGetNvLinkTelemetrySamples_v1": lambda: [n.c_nvmlNvlinkTelemetrySamples_v1_t()],
    "nvmlDeviceGetNvLinkUtilizationControl": lambda: [0, 0],
    "nvmlDeviceGetNvLinkUtilizationCounter": lambda: [0, 0],
    "nvmlDeviceGetNvLinkVersion": lambda: [0],
    "nvmlDeviceGetNvlinkBwMode": lambda: [n.c_nvmlNvlinkGetBwMode_v1_t()],
    "nvmlDeviceGetNvlinkSupportedBwModes": lambda: [n.c_nvmlNvlinkSupportedBwModes_v1_t()],
    "nvmlDeviceGetP2PStatus": lambda: [n.nvmlDeviceGetHandleByIndex(1), 0],
    "nvmlDeviceGetPciInfoExt": lambda: [c.byref(versioned("nvmlPciInfoExt_v1_t"))],
    "nvmlDeviceGetPcieThroughput": lambda: [0],
    "nvmlDeviceGetPlatformInfo": lambda: [n.c_nvmlPlatformInfo_v1_t()],
    "nvmlDeviceGetPowerMizerMode_v1": lambda: [n.c_nvmlDevicePowerMizerModes_v1_t()],
    "nvmlDeviceGetProcessUtilization": lambda: [0],
    "nvmlDeviceGetProcessesUtilizationInfo": lambda: [0],
    "nvmlDeviceGetRemappedRows_v2": lambda: [c.byref(n.c_nvmlRemappedRowsInfo_v2_t())],
    "nvmlDeviceGetRetiredPages": lambda: [0],
    "nvmlDeviceGetRetiredPages_v2": lambda: [0],
    "nvmlDeviceGetRunningProcessDetailList": lambda: [0x1000018, 0],
    "nvmlDeviceGetSamples": lambda: [n.NVML_GPU_UTILIZATION_SAMPLES, 0],
    "nvmlDeviceGetSramEccErrorStatus": lambda: [
        c.byref(versioned("c_nvmlEccSramErrorStatus_v1_t"))
    ],
    "nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts": lambda: [
        c.byref(versioned("c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t"))
    ],
    "nvmlDeviceGetSupportedGraphicsClocks": lambda: [
        n.nvmlDeviceGetSupportedMemoryClocks(n.nvmlDeviceGetHandleByIndex(0))[0]
    ],
    "nvmlDeviceGetTargetFanSpeed": lambda: [0],
    "nvmlDeviceGetTemperature": lambda: [0],
    "nvmlDeviceGetTemperatureThreshold": lambda: [0],
    "nvmlDeviceGetTemperatureV": lambda: [0],
    "nvmlDeviceGetTemperatureV1": lambda: [0],
    "nvmlDeviceGetThermalSettings": lambda: [0],
    "nvmlDeviceGetTopologyCommonAncestor": lambda: [n.nvmlDeviceGetHandleByIndex(1)],
    "nvmlDeviceGetTopologyNearestGpus": lambda: [n.NVML_TOPOLOGY_SYSTEM],
    "nvmlDeviceGetTotalEccErrors": lambda: [0, 0],
    "nvmlDeviceGetVgpuCapabilities": lambda: [0],
    "nvmlDeviceGetVgpuInstancesUtilizationInfo": lambda: [0],
    "nvmlDeviceGetVgpuProcessUtilization": lambda: [0],
    "nvmlDeviceGetVgpuProcessesUtilizationInfo": lambda: [0],
    "nvmlDeviceGetVgpuSchedulerLog_v2": lambda: [c.c_uint()],
    "nvmlDeviceGetVgpuSchedulerState_v2": lambda: [c.c_uint()],
    "nvmlDeviceGetVgpuTypeCreatablePlacements": lambda: [0],
    "nvmlDeviceGetVgpuTypeSupportedPlacements": lambda: [0],
    "nvmlDeviceGetVgpuUtilization": lambda: [0],
    "nvmlDeviceGetViolationStatus": lambda: [n.NVML_PERF_POLICY_POWER],
}
#: Asked without a device.
ALONE = {
    "nvmlDeviceGetCount": list,
    "nvmlDeviceGetHandleByIndex": lambda: [0],
    "nvmlDeviceGetHandleByPciBusId": lambda: ["00000000:01:00.0"],
    "nvmlDeviceGetHandleBySerial": lambda: ["none"],
    "nvmlDeviceGetHandleByUUID": lambda: [UUID],
    "nvmlDeviceGetHandleByUUIDV": lambda: [UUID, n.NVML_UUID_TYPE_ASCII],
}


#: What the library said last: some of pynvml's functions drop it.
said: list[int] = []
pointer_of = n._nvmlGetFunctionPointer


def pointer(name: str) -> Callable[..., int]:
    function = pointer_of(name)

    def call(*args: object) -> int:
        said.append(function(*args))
        return said[-1]

    return call


def ask(name: str, handle: object) -> str:
    """A value as text, or "error N"."""
    said[:] = [0]
    function = getattr(n, name)
    required = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is inspect.Parameter.empty
    ]
    if name in ALONE:
        args = ALONE[name]()
    elif name in ARGS:
        args = [handle, *ARGS[name]()]
    else:
        assert len(required) == 1, f"{name}: what to ask it with is not in ARGS"
        args = [handle]
    try:
        value = str(function(*args))
    except n.NVMLError as error:
        return f"error {error.value}"
    return value if said[-1] == 0 else f"error {said[-1]}"


def main() -> None:
    n._nvmlGetFunctionPointer = pointer
    n.nvmlInit()
    handle = n.nvmlDeviceGetHandleByIndex(0)
    names = [name for name in sorted(dir(n)) if name.startswith("nvmlDeviceGet")]
    print(json.dumps({name: ask(name, handle) for name in names}))


if __name__ == "__main__":
    main()
