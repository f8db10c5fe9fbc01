# SPDX-License-Identifier: Apache-2.0
"""Our NVML against what nvidia-ml-py knows: names, layouts, values."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from header_facts import Compile

from native.api import nvml

pynvml = pytest.importorskip("pynvml")

ROOT = Path(__file__).resolve().parents[3]
#: Our struct -> pynvml's.
STRUCTS = {
    "nvmlMemory_t": "c_nvmlMemory_t",
    "nvmlMemory_v2_t": "c_nvmlMemory_v2_t",
    "nvmlBAR1Memory_t": "c_nvmlBAR1Memory_t",
    "nvmlUtilization_t": "c_nvmlUtilization_t",
    "nvmlProcessInfo_v2_t": "c_nvmlProcessInfo_v2_t",
    "nvmlProcessInfo_t": "c_nvmlProcessInfo_v3_t",
    "nvmlProcessDetail_v1_t": "c_nvmlProcessDetail_v1_t",
    "nvmlProcessDetailList_v1_t": "c_nvmlProcessDetailList_v1_t",
    "nvmlPciInfo_t": "nvmlPciInfo_t",
    "nvmlPciInfo_v2_t": "nvmlPciInfo_v2_t",
    "nvmlPciInfoExt_v1_t": "nvmlPciInfoExt_v1_t",
    "nvmlProcessUtilizationSample_t": "c_nvmlProcessUtilizationSample_t",
    "nvmlProcessUtilizationInfo_v1_t": "c_nvmlProcessUtilizationInfo_v1_t",
    "nvmlProcessesUtilizationInfo_v1_t": "c_nvmlProcessesUtilizationInfo_v1_t",
    "nvmlSample_t": "c_nvmlSample_t",
    "nvmlValue_t": "c_nvmlValue_t",
    "nvmlFieldValue_t": "c_nvmlFieldValue_t",
    "nvmlAccountingStats_t": "c_nvmlAccountingStats_t",
    "nvmlDeviceAttributes_t": "c_nvmlDeviceAttributes",
    "nvmlAccountingStats_v2_t": "c_nvmlAccountingStats_v2_t",
    "nvmlComputeInstanceInfo_t": "c_nvmlComputeInstanceInfo_t",
    "nvmlComputeInstancePlacement_t": "c_nvmlComputeInstancePlacement_t",
    "nvmlComputeInstanceProfileInfo_t": "c_nvmlComputeInstanceProfileInfo_t",
    "nvmlComputeInstanceProfileInfo_v2_t": "c_nvmlComputeInstanceProfileInfo_v2_t",
    "nvmlEccErrorCounts_t": "c_nvmlEccErrorCounts_t",
    "nvmlEccSramErrorStatus_v1_t": "c_nvmlEccSramErrorStatus_v1_t",
    "nvmlEventData_t": "c_nvmlEventData_t",
    "nvmlFBCStats_t": "c_nvmlFBCStats_t",
    "nvmlGpmSupport_t": "c_nvmlGpmSupport_t",
    "nvmlGpuInstanceInfo_t": "c_nvmlGpuInstanceInfo_t",
    "nvmlGpuInstancePlacement_t": "c_nvmlGpuInstancePlacement_t",
    "nvmlGpuInstanceProfileInfo_t": "c_nvmlGpuInstanceProfileInfo_t",
    "nvmlGpuInstanceProfileInfo_v2_t": "c_nvmlGpuInstanceProfileInfo_v2_t",
    "nvmlHwbcEntry_t": "c_nvmlHwbcEntry_t",
    "nvmlMarginTemperature_v1_t": "c_nvmlMarginTemperature_v1_t",
    "nvmlPdi_v1_t": "c_nvmlPdi_t",
    "nvmlRemappedRowsInfo_v2_t": "c_nvmlRemappedRowsInfo_v2_t",
    "nvmlEccSramUniqueUncorrectedErrorCounts_v1_t": (
        "c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t"
    ),
    "nvmlPowerValue_v2_t": "c_nvmlPowerValue_v2_t",
    "nvmlRepairStatus_v1_t": "c_nvmlRepairStatus_t",
    "nvmlRowRemapperHistogramValues_t": "c_nvmlRowRemapperHistogramValues",
    "nvmlSystemDriverBranchInfo_v1_t": "c_nvmlSystemDriverBranchInfo_v1_t",
    "nvmlTemperature_v1_t": "c_nvmlTemperature_v1_t",
    "nvmlUUID_t": "c_nvmlUUID_t",
    "nvmlViolationTime_t": "c_nvmlViolationTime_t",
}
#: Enumerators that pynvml spells otherwise or lacks; the value is NVIDIA's.
ELSEWHERE = {
    "NVML_MEMORY_ERROR_TYPE_CORRECTED",
    "NVML_MEMORY_ERROR_TYPE_UNCORRECTED",
    "NVML_P2P_CAPS_INDEX_READ",  # a tuple there, by a comma too many
    "NVML_VALUE_NOT_AVAILABLE",
}


def test_every_function_of_pynvml_has_a_row() -> None:
    text = Path(pynvml.__file__).read_text()
    names = set(re.findall(r"_nvmlGetFunctionPointer\(\s*[\"'](nvml\w+)[\"']", text))
    assert len(names) > 350
    assert names - set(nvml.SYMBOLS) == set()


@pytest.mark.parametrize("name", sorted(n for n in nvml.SYMBOLS if re.search(r"_v\d$", n)))
def test_older_generations_are_there_too(name: str) -> None:
    """Programs call the unsuffixed names: torch's nvmlInit was missed once."""
    born_versioned = re.compile(
        r"(AccountingStats|CoolerInfo|DriverModel|FanControlPolicy|FanSpeed|MemoryInfo|RemappedRows|"
        r"RetiredPages|PowerManagementLimit|VgpuScheduler\w+|RemoveGpu|CudaDriverVersion)_v2$|_v1$|"
        r"Fabric\w+_v4$|EventSetWait_v3$"
    )
    base = re.sub(r"_v\d$", "", name)
    assert base in nvml.SYMBOLS or born_versioned.search(name)


def test_layouts(compile_c: Compile, tmp_path: Path) -> None:
    lines = ['#include "generated/nvml_abi.h"', "#include <stdio.h>", "int main(void) {"]
    want = []
    for ours, theirs in STRUCTS.items():
        struct = getattr(pynvml, theirs)
        lines.append(f'printf("{ours} %zu\\n", sizeof({ours}));')
        want.append(f"{ours} {ctypes.sizeof(struct)}")
        for field, *_ in struct._fields_:
            lines.append(
                f'printf("{ours}.{field} %zu %zu\\n", offsetof({ours}, {field}), '
                f"sizeof((({ours} *)0)->{field}));"
            )
            place = getattr(struct, field)
            want.append(f"{ours}.{field} {place.offset} {place.size}")
    done = compile_c("\n".join([*lines, "return 0; }"]), f"-I{ROOT / 'native'}")
    assert done.returncode == 0, done.stderr[:2000]
    got = subprocess.run([tmp_path / "out"], capture_output=True, text=True, check=True).stdout
    assert got.splitlines() == want


def test_values() -> None:
    ours = {name: value for t in nvml.TYPES for name, value in t.members}
    ours |= {c.name: int(c.value.strip("()").removesuffix("ull"), 0) for c in nvml.CONSTS}
    theirs = {name: getattr(pynvml, name, None) for name in ours}
    differ = {n: (v, theirs[n]) for n, v in ours.items() if theirs[n] != v and n not in ELSEWHERE}
    assert differ == {}


def test_memory_info_v2_word() -> None:
    """sizeof | generation << 24: the number that pynvml sends."""
    assert ctypes.sizeof(pynvml.c_nvmlMemory_v2_t) | 2 << 24 == pynvml.nvmlMemory_v2
