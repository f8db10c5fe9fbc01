# SPDX-License-Identifier: Apache-2.0
"""The driver API by ctypes, as little of it as the cases of modules, launches and graphs need.

Run inside a process of its own whose LD_LIBRARY_PATH names the library under test.
"""

from __future__ import annotations

import ctypes as c
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

CASES: dict[str, Callable[[Driver], None]] = {}
DEVICES: dict[str, str] = {}  # of cases that need others than the default

PTX = (Path(__file__).with_name("soft_mod_kernels.ptx")).read_bytes()

SUCCESS, INVALID_VALUE = 0, 1
INVALID_IMAGE, INVALID_CONTEXT, NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX = 200, 201, 209, 218, 222
FILE_NOT_FOUND, INVALID_HANDLE, ILLEGAL_STATE, NOT_FOUND, NOT_READY = 301, 400, 401, 500, 600
ILLEGAL_ADDRESS, OUT_OF_RESOURCES, MISALIGNED, LAUNCH_FAILED, TOO_LARGE = 700, 701, 716, 719, 720
NOT_SUPPORTED, NOT_PERMITTED = 801, 800
INVALID_DEVICE, PRIMARY_ACTIVE, DESTROYED = 101, 708, 709
UNSUPPORTED_LIMIT, UNSUPPORTED_AFFINITY = 215, 224
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_MERGE, CAPTURE_UNMATCHED = 900, 901, 902, 903
CAPTURE_UNJOINED, CAPTURE_ISOLATION, CAPTURE_IMPLICIT, CAPTURED_EVENT = 904, 905, 906, 907
WRONG_THREAD, UPDATE_FAILURE = 908, 910


class Counter(c.Structure):
    _fields_ = (
        ("name", c.c_char * 256),
        ("launches", c.c_uint64),
        ("blocks", c.c_uint64),
        ("threads", c.c_uint64),
        ("instructions", c.c_uint64),
        ("load_bytes", c.c_uint64),
        ("store_bytes", c.c_uint64),
    )


class KernelNode(c.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v1, and what v2 adds."""

    _fields_: ClassVar = [
        ("func", c.c_void_p),
        *((n, c.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("params", c.c_void_p),
        ("extra", c.c_void_p),
        ("kern", c.c_void_p),
        ("ctx", c.c_void_p),
    ]


class Memset(c.Structure):
    _fields_ = (
        ("dst", c.c_uint64),
        ("pitch", c.c_size_t),
        ("value", c.c_uint),
        ("element", c.c_uint),
        ("width", c.c_size_t),
        ("height", c.c_size_t),
    )


class Copy3D(c.Structure):
    _fields_: ClassVar = [
        *((n, c.c_size_t) for n in ("src_x", "src_y", "src_z", "src_lod")),
        ("src_type", c.c_int),
        ("src_host", c.c_void_p),
        ("src_device", c.c_uint64),
        ("src_array", c.c_void_p),
        ("reserved0", c.c_void_p),
        ("src_pitch", c.c_size_t),
        ("src_height", c.c_size_t),
        *((n, c.c_size_t) for n in ("dst_x", "dst_y", "dst_z", "dst_lod")),
        ("dst_type", c.c_int),
        ("dst_host", c.c_void_p),
        ("dst_device", c.c_uint64),
        ("dst_array", c.c_void_p),
        ("reserved1", c.c_void_p),
        ("dst_pitch", c.c_size_t),
        ("dst_height", c.c_size_t),
        ("width", c.c_size_t),
        ("height", c.c_size_t),
        ("depth", c.c_size_t),
    ]


class Failed(AssertionError):
    """A call that must succeed did not."""


class Params:
    """Kernel parameters in both forms; keeps what the driver reads alive."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.array = (c.c_void_p * (len(values) + 1))(
            *(c.cast(c.byref(v), c.c_void_p) for v in values), None
        )
        blob = b""
        for v in values:
            blob += b"\0" * (-len(blob) % c.alignment(v)) + bytes(v)
        self.blob = c.create_string_buffer(blob, len(blob) or 1)
        self.size = c.c_size_t(len(blob))
        self.extra = (c.c_void_p * 5)(1, c.addressof(self.blob), 2, c.addressof(self.size), 0)


class Driver:
    """One device with a context current."""

    def __init__(self) -> None:
        self.cu = c.CDLL("libcuda.so.1")
        self.keep: list[Any] = []
        self.ok("cuInit", 0)
        self.device = c.c_int()
        self.ok("cuDeviceGet", c.byref(self.device), 0)
        self.ctx = self.handle("cuCtxCreate_v2", 0, self.device)

    def call(self, name: str, *args: Any) -> int:
        result: int = getattr(self.cu, name)(*args)
        return result

    def ok(self, name: str, *args: Any) -> None:
        result = self.call(name, *args)
        if result != 0:
            raise Failed(f"{name}: {result}")

    def fails(self, expected: int, name: str, *args: Any) -> None:
        result = self.call(name, *args)
        assert result == expected, f"{name}: {result}, not {expected}"

    def handle(self, name: str, *args: Any) -> c.c_void_p:
        out = c.c_void_p()
        self.ok(name, c.byref(out), *args)
        return out

    def module(self, ptx: bytes = PTX) -> c.c_void_p:
        return self.handle("cuModuleLoadData", ptx)

    def function(self, module: c.c_void_p, name: str) -> c.c_void_p:
        return self.handle("cuModuleGetFunction", module, name.encode())

    def alloc(self, size: int) -> c.c_uint64:
        out = c.c_uint64()
        self.ok("cuMemAlloc_v2", c.byref(out), c.c_size_t(size))
        return out

    def up(self, data: np.ndarray[Any, Any]) -> c.c_uint64:
        ptr = self.alloc(data.nbytes)
        self.ok("cuMemcpyHtoD_v2", ptr, c.c_void_p(data.ctypes.data), c.c_size_t(data.nbytes))
        return ptr

    def up_now(self, data: np.ndarray[Any, Any]) -> c.c_uint64:
        """For streams that wait for nobody: a small copy may go on after the call."""
        ptr = self.up(data)
        self.sync()
        return ptr

    def down(self, ptr: c.c_uint64, count: int, dtype: str = "f4") -> np.ndarray[Any, Any]:
        data = np.zeros(count, dtype)
        self.ok("cuMemcpyDtoH_v2", c.c_void_p(data.ctypes.data), ptr, c.c_size_t(data.nbytes))
        return data

    def global_of(self, module: c.c_void_p, name: str) -> tuple[c.c_uint64, int]:
        ptr, size = c.c_uint64(), c.c_size_t()
        self.ok("cuModuleGetGlobal_v2", c.byref(ptr), c.byref(size), module, name.encode())
        return ptr, size.value

    def try_launch(
        self,
        function: c.c_void_p,
        params: Params | None = None,
        grid: tuple[int, int, int] = (1, 1, 1),
        block: tuple[int, int, int] = (1, 1, 1),
        *,
        shared: int = 0,
        stream: c.c_void_p | None = None,
        extra: bool = False,
    ) -> int:
        self.keep.append(params)
        array = None if params is None or extra else params.array
        packed = params.extra if params is not None and extra else None
        return self.call("cuLaunchKernel", function, *grid, *block, shared, stream, array, packed)

    def launch(self, *args: Any, **named: Any) -> None:
        result = self.try_launch(*args, **named)
        if result != 0:
            raise Failed(f"cuLaunchKernel: {result}")

    def sync(self) -> None:
        self.ok("cuCtxSynchronize")

    def stream(self, flags: int = 1) -> c.c_void_p:
        return self.handle("cuStreamCreate", flags)

    def event(self, flags: int = 0) -> c.c_void_p:
        return self.handle("cuEventCreate", flags)

    def elapsed_ms(self, start: c.c_void_p, end: c.c_void_p) -> float:
        self.ok("cuEventSynchronize", end)
        ms = c.c_float()
        self.ok("cuEventElapsedTime", c.byref(ms), start, end)
        return ms.value

    def counters(self) -> dict[str, Counter]:
        fill = self.cu.harp_soft_counters
        fill.restype = c.c_size_t
        fill.argtypes = [c.c_void_p, c.c_size_t]
        rows = (Counter * 64)()
        return {rows[i].name.decode(): rows[i] for i in range(fill(rows, 64))}


def case(body: Callable[[Driver], None]) -> Callable[[Driver], None]:
    CASES[body.__name__] = body
    return body


def case_on(devices: str) -> Callable[[Callable[[Driver], None]], Callable[[Driver], None]]:
    """A case on a machine of its own, with these devices."""

    def add(body: Callable[[Driver], None]) -> Callable[[Driver], None]:
        DEVICES[body.__name__] = devices
        return case(body)

    return add


def main() -> None:
    if sys.argv[1] in DEVICES:
        os.environ["HARP_SOFT_DEVICES"] = DEVICES[sys.argv[1]]
    CASES[sys.argv[1]](Driver())
    print("passed")
