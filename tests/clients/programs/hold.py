# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201
"""Holds a context and as many MiB as it is told, until its input ends."""

from __future__ import annotations

import sys

from cuda.bindings import driver as cu


def do(result):
    assert result[0] == cu.CUresult.CUDA_SUCCESS, result[0]
    return result[1] if len(result) == 2 else None


do(cu.cuInit(0))
do(cu.cuCtxCreate(None, 0, do(cu.cuDeviceGet(0))))
do(cu.cuMemAlloc(int(sys.argv[1]) << 20))
print("holding", flush=True)
sys.stdin.read()
