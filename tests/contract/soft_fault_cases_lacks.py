# SPDX-License-Identifier: Apache-2.0
"""Cases of faults on request: devices that lack a feature, by attributes and by calls."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path
from typing import Any

from soft_fault_driver import (
    IPC_CAPABLE,
    IPC_EVENT,
    MANAGED,
    MANAGED_VARIABLE,
    POOLS,
    VMM,
    alloc,
    arm,
    case,
    context_on,
    main,
    tool,
)
from soft_mod_driver import NOT_SUPPORTED, Driver


def _attribute(d: Driver, number: int, device: int) -> int:
    value = c.c_int(-1)
    d.ok("cuDeviceGetAttribute", c.byref(value), number, device)
    return value.value


def _lacks(rule: str, attributes: tuple[int, ...], calls: dict[str, tuple[Any, ...]]) -> Driver:
    """The rule is armed for the first device when it returns.

    Args:
        rule: its name.
        attributes: that say of the second device that it has it, and of the first that it has not.
        calls: refused, whatever their arguments.
    """
    d = Driver()
    usual = [_attribute(d, number, 0) for number in attributes]
    assert all(usual), usual
    arm(f"{rule} dev=0")
    assert not any(_attribute(d, number, 0) for number in attributes)
    assert [_attribute(d, number, 1) for number in attributes] == usual
    for name, args in calls.items():
        assert d.call(name, *args) == NOT_SUPPORTED, name
    log = Path(os.environ["HARP_SOFT_VERBOSE"]).read_text()
    for name in calls:
        assert f"fault: {name} answers 801" in log, (
            f"{name}: refused by the rule, not for want of it"
        )
    assert alloc(d) == 0
    assert _attribute(d, 1, 0) == 1024
    tool("clear")
    assert [_attribute(d, number, 0) for number in attributes] == usual
    arm(f"{rule} dev=0")
    return d


@case
def no_virtual_memory_management() -> None:
    handle, size = c.c_uint64(), c.c_size_t(2 << 20)
    reserve = (c.byref(handle), size, c.c_size_t(0), c.c_uint64(0), c.c_uint64(0))
    d = _lacks("novmm", VMM, {
        "cuMemCreate": (c.byref(handle), size, None, c.c_uint64(0)),
        "cuMemAddressReserve": reserve,
        "cuMemMap": (handle, size, c.c_size_t(0), handle, c.c_uint64(0)),
        "cuMemSetAccess": (handle, size, None, c.c_size_t(0)),
        "cuMemGetAllocationGranularity": (c.byref(size), None, 0),
        "cuMemExportToShareableHandle": (None, handle, 1, c.c_uint64(0)),
        "cuMemImportFromShareableHandle": (c.byref(handle), None, 1),
    })  # fmt: skip
    assert context_on(d, 1)[0] == 0
    d.ok("cuMemAddressReserve", *reserve)


@case
def no_pools() -> None:
    out = c.c_uint64()
    _lacks("nopools", (POOLS, 119, 142, 144), {
        "cuMemAllocAsync": (c.byref(out), c.c_size_t(64), None),
        "cuMemAllocAsync_ptsz": (c.byref(out), c.c_size_t(64), None),
        "cuDeviceGetDefaultMemPool": (c.byref(out), 0),
        "cuMemPoolTrimTo": (None, c.c_size_t(0)),
        "cuMemFreeAsync": (c.c_uint64(0), None),
        "cuDeviceGraphMemTrim": (0,),
        "cuGraphAddMemAllocNode": (c.byref(out), None, None, c.c_size_t(0), None),
    })  # fmt: skip


@case
def no_ipc() -> None:
    out, handle = c.create_string_buffer(64), c.c_void_p()
    d = _lacks("noipc", (IPC_EVENT,), {
        "cuIpcGetMemHandle": (out, c.c_uint64(0)),
        "cuIpcGetEventHandle": (out, None),
        "cuIpcOpenEventHandle": (c.byref(handle), None),
        "cuIpcOpenMemHandle_v2": (c.byref(handle), None, 1),
        "cuIpcCloseMemHandle": (c.c_uint64(0),),
    })  # fmt: skip
    interprocess = 4 | 2
    assert d.call("cuEventCreate", c.byref(handle), interprocess) == NOT_SUPPORTED
    d.ok("cuEventCreate", c.byref(handle), 2)
    ptr, capable = d.alloc(64), c.c_ubyte(7)
    d.ok("cuPointerGetAttribute", c.byref(capable), IPC_CAPABLE, ptr)
    assert capable.value == 0
    tool("clear")
    d.ok("cuPointerGetAttribute", c.byref(capable), IPC_CAPABLE, ptr)
    assert capable.value == 1
    d.ok("cuEventCreate", c.byref(handle), interprocess)


@case
def no_managed_memory() -> None:
    out = c.c_uint64()
    d = _lacks("nomanaged", MANAGED, {
        "cuMemAllocManaged": (c.byref(out), c.c_size_t(64), 1),
        "cuMemAdvise": (out, c.c_size_t(64), 1, 0),
        "cuMemPrefetchAsync": (out, c.c_size_t(64), 0, None),
        "cuMemRangeGetAttribute": (c.byref(out), c.c_size_t(8), 1, out, c.c_size_t(64)),
        "cuStreamAttachMemAsync": (None, out, c.c_size_t(64), 1),
    })  # fmt: skip
    log = c.create_string_buffer(2048)
    options, values = (c.c_int * 2)(5, 6), (c.c_void_p * 2)(c.addressof(log), len(log))
    module, library = c.c_void_p(), c.c_void_p()
    load = ("cuModuleLoadDataEx", c.byref(module), MANAGED_VARIABLE, 2, options, values)
    assert d.call(*load) == NOT_SUPPORTED
    assert b"both is managed memory" in log.value, log.value
    by_library = (c.byref(library), MANAGED_VARIABLE, None, None, 0, None, None, 0)
    d.ok("cuLibraryLoadData", *by_library)  # the second device has it
    kernel = d.handle("cuLibraryGetKernel", library, b"k")
    assert d.try_launch(kernel) == NOT_SUPPORTED
    assert context_on(d, 1)[0] == 0
    d.launch(kernel)
    arm("nomanaged")
    assert d.call("cuLibraryLoadData", *by_library) == NOT_SUPPORTED
    tool("clear")
    d.ok("cuCtxSetCurrent", d.ctx)
    d.module(MANAGED_VARIABLE)


if __name__ == "__main__":
    main()
