# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201
"""A device with a context, for cases of cuda-python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from counters import Watch
from cuda.bindings import driver as cu

OK = cu.CUresult.CUDA_SUCCESS
PTX = Path(__file__).with_name("kernels.ptx").read_bytes() + b"\0"
MIB = 1 << 20


def do(result):
    """Unpacks (status, value...) and insists on success."""
    assert result[0] == OK, result[0]
    return result[1] if len(result) == 2 else result[1:] or None


def fails(result, name: str) -> None:
    """Insists on one error."""
    assert result[0].name == f"CUDA_ERROR_{name}", result[0]


class Machine:
    """A device with a context and the kernels of kernels.ptx."""

    def __init__(self) -> None:
        do(cu.cuInit(0))
        self.device = do(cu.cuDeviceGet(0))
        self.context = do(cu.cuCtxCreate(None, 0, self.device))
        self.module = do(cu.cuModuleLoadData(PTX))

    def kernel(self, name: str):
        return do(cu.cuModuleGetFunction(self.module, name.encode()))

    def array(self, values: np.ndarray):
        pointer = do(cu.cuMemAlloc(max(1, values.nbytes)))
        do(cu.cuMemcpyHtoD(pointer, values, values.nbytes))
        return pointer

    def read(self, pointer, like: np.ndarray) -> np.ndarray:
        out = np.empty_like(like)
        do(cu.cuMemcpyDtoH(out, pointer, out.nbytes))
        print("read", out.tobytes().hex()[:4096])  # for runs elsewhere to be compared with
        return out

    def watch(self) -> Watch:
        return Watch(lambda: do(cu.cuCtxSynchronize()))


def launch(kernel, grid, block, values, types, *, stream=0, shared=0) -> None:
    """cuLaunchKernel with kernelParams."""
    grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
    do(cu.cuLaunchKernel(kernel, *grid, *block, shared, stream, (tuple(values), tuple(types)), 0))


U32, U64, F32 = ctypes.c_uint32, None, ctypes.c_float  # None: the object knows (CUdeviceptr)
