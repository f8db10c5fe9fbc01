# SPDX-License-Identifier: Apache-2.0
"""Doors: the software GPU's exported symbols, each a jump to its implementation or to its faults.

native/soft/gpu/door.inc is the jump, door.h says what a row of these tables means.
"""

from __future__ import annotations

from native.api import cuda, nvml
from native.api.model import Charge, Function, Gate, Symbol
from native.api.nvml import NvmlFunction
from native.api.rows import init, pool, vmm
from native.api.types.device_attribute import SINCE
from native.gen.output import Target

#: Arguments that a door sees: those in integer registers.
_REGISTERS = 6

_POOL = frozenset(row.name for row in pool.ROWS) | {
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetMemPool",
    "cuDeviceSetMemPool",
    "cuGraphAddMemAllocNode",
    "cuGraphAddMemFreeNode",
    "cuGraphMemAllocNodeGetParams",
    "cuGraphMemFreeNodeGetParams",
    "cuDeviceGraphMemTrim",
    "cuDeviceGetGraphMemAttribute",
    "cuDeviceSetGraphMemAttribute",
}
_VMM = frozenset(row.name for row in vmm.ROWS) - {"cuMemGetHandleForAddressRange"}
_MANAGED = frozenset({
    "cuMemAllocManaged",
    "cuMemPrefetchAsync",
    "cuMemPrefetchBatchAsync",
    "cuMemDiscardBatchAsync",
    "cuMemDiscardAndPrefetchBatchAsync",
    "cuMemAdvise",
    "cuMemRangeGetAttribute",
    "cuMemRangeGetAttributes",
    "cuStreamAttachMemAsync",
})  # fmt: skip


def _flags(row: Function) -> str:
    """What the fault rules that name no symbol go by."""
    sets = {
        "SOFT_DOOR_RESULT": row.ret == "CUresult",
        "SOFT_DOOR_ALLOC": row.gate is Gate.MEM_ALLOC
        and row.charge is not Charge.HOST
        and row.name.startswith(("cuMem", "cuArray", "cuMipmapped")),
        "SOFT_DOOR_VMM": row.name in _VMM,
        "SOFT_DOOR_POOL": row.name in _POOL,
        "SOFT_DOOR_IPC": row.name.startswith("cuIpc"),
        "SOFT_DOOR_MANAGED": row.name in _MANAGED,
        "SOFT_DOOR_FREE": row in init.ROWS,
    }
    return " | ".join(name for name, holds in sets.items() if holds) or "0"


def _device_arg(symbol: Symbol) -> int:
    """Which argument names the device; -1: none, the current context does."""
    if any(p.type in ("float", "double") for p in symbol.params):
        return -1
    types = [p.type for p in symbol.params[:_REGISTERS]]
    return types.index("CUdevice") if "CUdevice" in types else -1


def cuda_c() -> str:
    """One row per exported symbol of libcuda."""
    rows = "\n".join(
        f'{{"{s.name}", {s.since}, {_flags(cuda.function_of(s.name))}, {_device_arg(s)}}},'
        for s in cuda.SYMBOLS
    )
    return f"""
#include "soft/gpu/door.h"

const struct soft_door_info soft_doors_cuda[] = {{
{rows}
}};
const unsigned soft_doors_cuda_count = {len(cuda.SYMBOLS)};
"""


def _nvml_flags(row: NvmlFunction) -> str:
    flags = ["SOFT_DOOR_RESULT"] if row.ret == "nvmlReturn_t" else []
    if row.name.startswith("nvmlDeviceGetHandleByIndex"):
        flags.append("SOFT_DOOR_INDEX")
    elif _handle_arg(row) >= 0:
        flags.append("SOFT_DOOR_HANDLE")
    return " | ".join(flags) or "0"


def _handle_arg(row: NvmlFunction) -> int:
    if row.params is not None:
        types = [p.type for p in row.params[:_REGISTERS]]
        return types.index("nvmlDevice_t") if "nvmlDevice_t" in types else -1
    # without a prototype: all of them take it first
    return 0 if row.name.startswith("nvmlDevice") else -1


def nvml_c() -> str:
    """One row per exported symbol of libnvidia-ml."""
    rows = "\n".join(
        f'{{"{f.name}", 0, {_nvml_flags(f)}, '
        f"{0 if 'SOFT_DOOR_INDEX' in _nvml_flags(f) else _handle_arg(f)}}},"
        for f in nvml.FUNCTIONS
    )
    return f"""
#include "soft/gpu/door.h"

const struct soft_door_info soft_doors_nvml[] = {{
{rows}
}};
const unsigned soft_doors_nvml_count = {len(nvml.FUNCTIONS)};
"""


def _doors(names: tuple[str, ...]) -> str:
    rows = "\n".join(f"soft_door {i}, {name}" for i, name in enumerate(names))
    return f'#include "soft/gpu/door.inc"\n{rows}\n'


def cuda_s() -> str:
    """The doors of libcuda, numbered as SOFT_SYM_*."""
    return _doors(tuple(s.name for s in cuda.SYMBOLS))


def nvml_s() -> str:
    """The doors of libnvidia-ml."""
    return _doors(nvml.SYMBOLS)


def attributes_inc() -> str:
    """Device attributes that came after CUDA 12.0, for drivers of before."""
    return "".join(f"SOFT_ATTRIBUTE_SINCE({n}, {v})\n" for n, v in sorted(SINCE.items()))


_ME = "native/gen/emit_door.py"
TARGETS: tuple[Target, ...] = (
    Target("generated/soft_doors.S", cuda_s, _ME),
    Target("generated/soft_nvml_doors.S", nvml_s, _ME),
    Target("generated/soft_door_info.c", cuda_c, _ME),
    Target("generated/soft_nvml_door_info.c", nvml_c, _ME),
    Target("generated/soft_attributes.inc", attributes_inc, _ME),
)
