# SPDX-License-Identifier: Apache-2.0
"""Every nvmlDeviceGet* of pynvml answers a value, or a documented error for a known reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

#: What a whole H100 does not answer, without the prefix nvmlDeviceGet, by why.
NOT_SUPPORTED = {
    "vGPU: nothing is shared out to virtual machines": """
        ActiveVgpus CreatableVgpus GridLicensableFeatures GridLicensableFeatures_v4 HostVgpuMode
        PgpuMetadataString SupportedVgpus VgpuCapabilities VgpuHeterogeneousMode
        VgpuInstancesUtilizationInfo VgpuMetadata VgpuProcessUtilization
        VgpuProcessesUtilizationInfo VgpuSchedulerCapabilities VgpuSchedulerLog
        VgpuSchedulerLog_v2 VgpuSchedulerState VgpuSchedulerState_v2 VgpuTypeCreatablePlacements
        VgpuTypeSupportedPlacements VgpuUtilization""",
    "confidential computing": """
        ConfComputeGpuAttestationReport ConfComputeGpuCertificate ConfComputeMemSizeInfo
        ConfComputeProtectedMemoryUsage CurrentDramEncryptionMode DramEncryptionMode
        PendingDramEncryptionMode""",
    "fans: the cards it is modelled after have none": """
        CoolerInfo FanControlPolicy_v2 FanSpeed FanSpeedRPM FanSpeed_v2 MinMaxFanSpeed
        TargetFanSpeed""",
    "Windows only": """
        CurrentDriverModel DriverModel DriverModel_v1 DriverModel_v2 PendingDriverModel""",
    "nothing is at the other end of a link": """
        GpuFabricInfo GpuFabricInfoV GpuFabricInfo_v4 NvLinkCapability NvLinkErrorCounter
        NvLinkInfo NvLinkRemoteDeviceType NvLinkRemotePciInfo NvLinkTelemetrySamples_v1
        NvLinkUtilizationControl NvLinkUtilizationCounter NvLinkVersion NvlinkBwMode
        NvlinkSupportedBwModes""",
    "of MIG devices, or of boards in MIG mode": """
        Attributes Attributes_v2 ComputeInstanceId GpuInstanceById GpuInstanceId
        GpuInstancePossiblePlacements GpuInstanceProfileInfo GpuInstanceProfileInfoById
        GpuInstanceProfileInfoByIdV GpuInstanceProfileInfoV GpuInstanceRemainingCapacity
        GpuInstances MigDeviceHandleByIndex""",
    "H100 remaps rows instead": """
        RetiredPages RetiredPagesPendingStatus RetiredPages_v2""",
    "overclocking: data-centre cards have none": """
        AdaptiveTgpModeInfo_v1 AutoBoostedClocksEnabled ClockOffsets CurrentClockFreqs
        GpcClkMinMaxVfOffset GpcClkVfOffset MemClkMinMaxVfOffset MemClkVfOffset PerformanceModes
        PowerMizerMode_v1""",
    "not modelled: no interrupt, no black box, no platform around it": """
        AddressingMode Capabilities BBXTimeData_v1 BankRemapperStatus_v1 ClkMonStatus
        CurrentGpuOperationMode GpuOperationMode Hostname_v1 IrqNum LastBBXFlushTime
        MemoryLimits_v1 PendingGpuOperationMode PlatformInfo UnrepairableMemoryFlag_v1""",
}
#: What other profiles answer beyond that, and what they do not.
MORE = {
    "h100-80g": "",
    "t4-16g": "RetiredPages RetiredPages_v2 RetiredPagesPendingStatus",
    "h100-mig-2x40g": """
        GpuInstanceById GpuInstancePossiblePlacements GpuInstanceProfileInfo
        GpuInstanceProfileInfoById GpuInstanceProfileInfoByIdV GpuInstanceProfileInfoV
        GpuInstanceRemainingCapacity GpuInstances MigDeviceHandleByIndex""",
}
LESS = {
    "h100-80g": "",
    # no MIG, no GSP by default, no links, no counters of SRAM; it retires pages
    "t4-16g": """
        GspFirmwareVersion MigMode NvLinkState RemappedRows RemappedRows_v2 RowRemapperHistogram
        SramEccErrorStatus SramUniqueUncorrectedEccErrorCounts""",
    # utilisation is not told of boards in MIG mode
    "h100-mig-2x40g": """
        DecoderUtilization DynamicPstatesInfo EncoderUtilization JpgUtilization OfaUtilization
        ProcessUtilization ProcessesUtilizationInfo Samples UtilizationRates""",
}
#: Nobody is there to tell of, or nothing has that name.
NOT_FOUND = """
    AccountingStats AccountingStats_v2 HandleBySerial HandleByUUID HandleByUUIDV
    ProcessUtilization ProcessesUtilizationInfo"""
INVALID_ARGUMENT = "DeviceHandleFromMigDeviceHandle"  # asked of a board
FOLDER = Path(__file__).parent


@pytest.mark.parametrize("profile", MORE)
def test_every_question_has_an_answer(soft_env: dict[str, str], profile: str) -> None:
    done = subprocess.run(
        [sys.executable, "-B", str(FOLDER / "nvml_walk.py")],
        env={**soft_env, "HARP_SOFT_DEVICES": f"{profile},tiny"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {k.removeprefix("nvmlDeviceGet"): v for k, v in json.loads(done.stdout).items()}
    assert len(told) > 220
    errors: dict[str, set[str]] = {}
    for name, said in told.items():
        if said.startswith("error "):
            errors.setdefault(said, set()).add(name)
        else:
            assert re.fullmatch(r"[ -~]*", said), (name, said)  # no garbage in texts
    refused = {name for names in NOT_SUPPORTED.values() for name in names.split()}
    assert errors.pop("error 3") == refused - set(MORE[profile].split()) | set(
        LESS[profile].split()
    )
    assert errors.pop("error 6") == set(NOT_FOUND.split()) - set(LESS[profile].split())
    assert errors.pop("error 2") == {INVALID_ARGUMENT}
    assert errors == {}


def test_no_reason_is_given_twice() -> None:
    names = [name for names in NOT_SUPPORTED.values() for name in names.split()]
    assert len(names) == len(set(names))
