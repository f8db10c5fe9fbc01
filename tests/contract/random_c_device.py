# SPDX-License-Identifier: Apache-2.0
"""Runs kernels on the software GPU, one after another, as it is told on standard input.

Each line is {"ptx", "in", "blocks", "threads", "out_words"}: paths of files and sizes; the answer
is {"out": hexadecimal} or {"error": why}. After an error of a launch the context is of no more use.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from random_ptx_run import Driver

CELLS = 16


def run(driver: Driver, task: dict[str, Any]) -> bytes:
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    text = Path(task["ptx"]).read_bytes() + b"\0"
    driver.do("cuModuleLoadData", ctypes.byref(module), text)
    driver.do("cuModuleGetFunction", ctypes.byref(function), module, b"random_c")
    arrays = [
        np.fromfile(task["in"], np.uint64),
        np.zeros(task["out_words"], np.uint64),
        np.zeros(CELLS, np.uint32),
        np.zeros(CELLS, np.uint64),
    ]
    values = [driver.array(array) for array in arrays]
    params = (ctypes.c_void_p * 4)(*(ctypes.addressof(v) for v in values))
    grid, block = (task["blocks"], 1, 1), (task["threads"], 1, 1)
    driver.do("cuLaunchKernel", function, *grid, *block, 0, None, params, None)
    driver.do("cuCtxSynchronize")
    got = [driver.read(v, np.zeros_like(a)) for v, a in zip(values, arrays, strict=True)]
    for pointer in values:
        driver.do("cuMemFree_v2", pointer)
    driver.do("cuModuleUnload", module)
    return b"".join(array.tobytes() for array in got[1:])


def main() -> None:
    driver = Driver()
    for line in sys.stdin:
        try:
            answer = {"out": run(driver, json.loads(line)).hex()}
        except RuntimeError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
