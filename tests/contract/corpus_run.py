# SPDX-License-Identifier: Apache-2.0
"""Runs kernels of the corpus through the driver API.

    corpus_run.py JOBS BLOCKS THREADS CELLS

JOBS is a file of lines "PTX KERNEL INPUT OUTPUT": paths, but for the kernel's name. What a kernel
writes goes to OUTPUT, or to OUTPUT.why what went wrong. What is there already is not run again;
the status is 3 where others are left after a kernel that went wrong.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from random_ptx_run import Driver


def run(driver: Driver, ptx: bytes, kernel: str, data: bytes, shape: tuple[int, int, int]) -> bytes:
    """The output of one kernel, and its cells."""
    blocks, threads, cell_count = shape
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.do("cuModuleLoadData", ctypes.byref(module), ptx + b"\0")
    driver.do("cuModuleGetFunction", ctypes.byref(function), module, kernel.encode())
    out_bytes = blocks * threads * 128
    source = np.frombuffer(data, np.uint8)
    arrays: list[np.ndarray] = [
        source,
        np.zeros(out_bytes, np.uint8),
        np.zeros(cell_count, np.uint32),
    ]
    pointers = [driver.array(a) for a in arrays]
    params = (ctypes.c_void_p * 3)(*(ctypes.addressof(p) for p in pointers))
    driver.do("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, None, params, None)
    driver.do("cuCtxSynchronize")
    got = [driver.read(p, a.copy()) for p, a in zip(pointers[1:], arrays[1:], strict=True)]
    for pointer in pointers:
        driver.do("cuMemFree_v2", pointer)
    driver.do("cuModuleUnload", module)
    return b"".join(a.tobytes() for a in got)


def main() -> None:
    driver = Driver()
    shape = (int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    for line in Path(sys.argv[1]).read_text().splitlines():
        ptx, kernel, data, output = line.split()
        if Path(output).exists() or Path(output + ".why").exists():
            continue
        try:
            got = run(driver, Path(ptx).read_bytes(), kernel, Path(data).read_bytes(), shape)
        except RuntimeError as error:
            Path(output + ".why").write_text(str(error))
            if "cuLaunch" in str(error) or "cuCtx" in str(error):
                raise SystemExit(3) from None  # this process has no more use of the GPU
            continue
        Path(output).write_bytes(got)


if __name__ == "__main__":
    main()
