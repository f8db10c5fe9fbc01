# SPDX-License-Identifier: Apache-2.0
"""One program of `harp bench softgpu`: a client of the driver API, and what it saw as JSON.

python -m harp.bench.softgpu_step start NAME       from cuInit to the end of the first launch; of
                                                   that, from cuModuleLoadData on (`loaded`)
python -m harp.bench.softgpu_step run NAME ROUNDS  launches and NumPy, in turn
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harp.bench.softgpu_kernels import ADD, MATMUL, TILE

__all__ = ["ELEMENTS", "SIDE", "SMALL"]

ELEMENTS = 1 << 24
SIDE = 512
SMALL = {"add": 1024, "matmul": 2 * TILE}
_BLOCK = 256
_Floats = npt.NDArray[np.float32]


class _Driver:
    """As much of the driver API as two kernels need."""

    def __init__(self) -> None:
        self._api = ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()

    def do(self, name: str, *args: object) -> None:
        status = getattr(self._api, name)(*args)
        if status != 0:
            sys.exit(f"{name}: error {status}")

    def begin(self) -> None:
        self.do("cuInit", 0)
        device = ctypes.c_int()
        self.do("cuDeviceGet", ctypes.byref(device), 0)
        self.do("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.do("cuCtxSetCurrent", self._context)

    def function(self, ptx: str, name: str) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.do("cuModuleLoadData", ctypes.byref(module), ptx.encode())
        self.do("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def put(self, array: _Floats) -> ctypes.c_uint64:
        pointer, size = ctypes.c_uint64(), ctypes.c_size_t(array.nbytes)
        self.do("cuMemAlloc_v2", ctypes.byref(pointer), size)
        self.do("cuMemcpyHtoD_v2", pointer, array.ctypes.data_as(ctypes.c_void_p), size)
        return pointer

    def get(self, pointer: ctypes.c_uint64, out: _Floats) -> _Floats:
        size = ctypes.c_size_t(out.nbytes)
        self.do("cuMemcpyDtoH_v2", out.ctypes.data_as(ctypes.c_void_p), pointer, size)
        return out


@dataclass(slots=True)
class _Work:
    """A kernel with its data on the device, and what NumPy makes of the same."""

    launch: Callable[[], None]
    numpy: Callable[[], None]
    result: Callable[[], _Floats]
    expected: _Floats
    exact: bool  #: else the order of the sums may differ


def _inputs(name: str, n: int) -> tuple[_Floats, _Floats]:
    random = np.random.default_rng(1)
    shape = (n,) if name == "add" else (n, n)
    return random.random(shape, dtype=np.float32), random.random(shape, dtype=np.float32)


def _work(driver: _Driver, name: str, a: _Floats, b: _Floats) -> _Work:
    n = len(a)
    out, expected = np.zeros_like(a), np.zeros_like(a)
    function = driver.function(ADD if name == "add" else MATMUL, name)
    values = (driver.put(a), driver.put(b), driver.put(out), ctypes.c_uint32(n))
    params = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    flat = name == "add"
    grid = (-(-n // _BLOCK), 1, 1) if flat else (n // TILE, n // TILE, 1)
    block = (_BLOCK, 1, 1) if flat else (TILE, TILE, 1)

    def launch() -> None:
        driver.do("cuLaunchKernel", function, *grid, *block, 0, None, params, None)
        driver.do("cuCtxSynchronize")

    def numpy_too() -> None:
        if flat:
            np.add(a, b, out=expected)
        else:
            np.matmul(a, b, out=expected)

    def result() -> _Floats:
        return driver.get(values[2], out)  # and so they live as long as `params`

    return _Work(launch, numpy_too, result, expected, flat)


def _right(work: _Work) -> bool:
    work.numpy()
    got = work.result()
    return bool((got == work.expected).all() if work.exact else np.allclose(got, work.expected))


def _start(name: str) -> dict[str, object]:
    driver, inputs = _Driver(), _inputs(name, SMALL[name])
    began_s, began_cpu_s = time.perf_counter(), _cpu_s()
    driver.begin()
    ready_s, ready_cpu_s = time.perf_counter(), _cpu_s()
    work = _work(driver, name, *inputs)
    work.launch()
    end_s, end_cpu_s = time.perf_counter(), _cpu_s()
    return {
        "ms": (end_s - began_s) * 1e3,
        "cpu_ms": (end_cpu_s - began_cpu_s) * 1e3,
        "loaded_ms": (end_s - ready_s) * 1e3,
        "loaded_cpu_ms": (end_cpu_s - ready_cpu_s) * 1e3,
        "right": _right(work),
    }


def _cpu_s() -> float:
    """Of this process, and of those that it started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + time.process_time()


def _clocked(call: Callable[[], None]) -> tuple[float, float]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3


def _run(name: str, rounds: int) -> dict[str, object]:
    driver = _Driver()
    driver.begin()
    work = _work(driver, name, *_inputs(name, ELEMENTS if name == "add" else SIDE))
    work.launch()
    right = _right(work)
    found = [(*_clocked(work.launch), *_clocked(work.numpy)) for _ in range(rounds)]
    columns = ("soft_ms", "soft_cpu_ms", "numpy_ms", "numpy_cpu_ms")
    return {"right": right} | dict(zip(columns, zip(*found, strict=True), strict=True))


if __name__ == "__main__":
    mode, kernel = sys.argv[1:3]
    seen = _start(kernel) if mode == "start" else _run(kernel, int(sys.argv[3]))
    sys.stdout.write(json.dumps(seen))
