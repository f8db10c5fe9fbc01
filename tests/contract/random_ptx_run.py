# SPDX-License-Identifier: Apache-2.0
"""Runs random kernels through the driver API and compares with NumPy.

    random_ptx_run.py SEED FIRST COUNT STEPS FOLDER

Kernels that fail are written to FOLDER. The last line is {"ran": n, "failed": [[index, why]...]}.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from random_ptx import DTYPE, Kernel

SIZE = ctypes.c_size_t
POINTER = ctypes.c_uint64


class Driver:
    """As much of the driver API as a kernel needs."""

    def __init__(self) -> None:
        self.api = ctypes.CDLL("libcuda.so.1")
        self.do("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.do("cuDeviceGet", ctypes.byref(device), 0)
        self.do("cuCtxCreate_v2", ctypes.byref(context), 0, device)

    def do(self, name: str, *args: object) -> None:
        status = getattr(self.api, name)(*args)
        if status != 0:
            text = ctypes.c_char_p()
            self.api.cuGetErrorName(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {text.value.decode() if text.value else status}")

    def array(self, data: np.ndarray) -> ctypes.c_uint64:
        pointer = POINTER()
        self.do("cuMemAlloc_v2", ctypes.byref(pointer), SIZE(max(8, data.nbytes)))
        self.do("cuMemcpyHtoD_v2", pointer, data.ctypes.data_as(ctypes.c_void_p), SIZE(data.nbytes))
        return pointer

    def read(self, pointer: ctypes.c_uint64, out: np.ndarray) -> np.ndarray:
        self.do("cuMemcpyDtoH_v2", out.ctypes.data_as(ctypes.c_void_p), pointer, SIZE(out.nbytes))
        return out


def differs(kind: str, got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Bit for bit, except that one NaN is as good as another."""
    bits = got.view(np.uint32 if got.itemsize == 4 else np.uint64)
    wrong = bits != expected.view(bits.dtype)
    if kind.startswith("f"):
        wrong &= ~(np.isnan(got) & np.isnan(expected))
    return wrong


def run(driver: Driver, kernel: Kernel) -> str:
    """Why the kernel is wrong, or nothing."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.do("cuModuleLoadData", ctypes.byref(module), kernel.ptx.encode() + b"\0")
    driver.do("cuModuleGetFunction", ctypes.byref(function), module, b"random")
    start = {"min": 2**32 - 1, "and": 2**32 - 1}
    totals = np.array([start.get(name, 0) for name, _ in kernel.totals], np.uint32)
    arrays = [driver.array(data) for data in kernel.inputs.values()]
    out = driver.array(np.zeros(kernel.out_bytes, np.uint8))
    cells = driver.array(totals)
    values = [*arrays, out, cells]
    params = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    grid, block = (kernel.blocks, 1, 1), (kernel.threads, 1, 1)
    driver.do("cuLaunchKernel", function, *grid, *block, 0, None, params, None)
    driver.do("cuCtxSynchronize")
    raw = driver.read(out, np.zeros(kernel.out_bytes, np.uint8)).reshape(-1, kernel.count, 8)
    for at, (kind, expected) in enumerate(kernel.outputs):
        dtype = np.dtype(DTYPE[kind])
        got = np.ascontiguousarray(raw[at, :, : dtype.itemsize]).view(dtype).reshape(-1)
        wrong = differs(kind, got, expected)
        if wrong.any():
            i = int(wrong.argmax())
            return (
                f"output {at} ({kind}): {int(wrong.sum())} of {kernel.count} threads differ,"
                f" thread {i}: {got[i]!r} is not {expected[i]!r}"
            )
    got_totals = driver.read(cells, np.zeros_like(totals)).tolist()
    if got_totals != [value for _, value in kernel.totals]:
        return f"totals {got_totals} are not {kernel.totals}"
    for pointer in values:
        driver.do("cuMemFree_v2", pointer)
    driver.do("cuModuleUnload", module)
    return ""


def main() -> None:
    seed, first, count, steps = (int(v) for v in sys.argv[1:5])
    folder = Path(sys.argv[5])
    driver = Driver()
    failed = []
    for i in range(first, first + count):
        kernel = Kernel(np.random.default_rng([seed, i]), steps)
        try:
            why = run(driver, kernel)
        except RuntimeError as error:
            why = str(error)
        if why:
            path = folder / f"random-{seed}-{i}.ptx"
            path.write_text(kernel.ptx)
            failed.append([i, f"{why} ({path})"])
            if "cuLaunch" in why or "cuCtx" in why:
                break  # the context is of no more use
    print(json.dumps({"ran": count, "failed": failed}))


if __name__ == "__main__":
    main()
