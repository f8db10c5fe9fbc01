# SPDX-License-Identifier: Apache-2.0
"""cuda-python: modules, launches, and how they fail."""

from __future__ import annotations

import ctypes

import numpy as np
from bindings_machine import F32, PTX, U32, U64, Machine, do, fails, launch
from counters import WATCHED
from cuda.bindings import driver as cu


def case_launch() -> None:
    machine = Machine()
    rng = np.random.default_rng(5)
    n = 5000
    x, y = rng.standard_normal((2, n)).astype(np.float32)
    d_x, d_y = machine.array(x), machine.array(y)
    with machine.watch() as watch:
        kernel = machine.kernel("saxpy")
        launch(kernel, (20,), (256,), (d_y, d_x, 1.5, n), (U64, U64, F32, U32))
        watch.launched("saxpy", 20, 256)
    if WATCHED:
        count = watch.counts["saxpy"]
        assert (count.load_bytes, count.store_bytes) == (8 * n, 4 * n)
    got = machine.read(d_y, y)
    exact = x.astype(np.float64) * 1.5 + y  # one rounding: fma
    assert np.array_equal(got, exact.astype(np.float32))

    with machine.watch() as watch:
        out = machine.array(np.zeros(6 * 10 * 12, np.uint32))
        launch(machine.kernel("where_am_i"), (2, 5, 4), (3, 2, 3), (out,), (U64,))
        watch.launched("where_am_i", 40, 18)
    got = machine.read(out, np.zeros((12, 10, 6), np.uint32))
    z, y_, x_ = np.indices((12, 10, 6))
    assert np.array_equal(got, x_ | y_ << 8 | z << 16)

    values = rng.integers(0, 2**31, 256 * 37, dtype=np.uint32)
    total, d_values = machine.array(np.zeros(1, np.uint32)), machine.array(values)
    with machine.watch() as watch:
        launch(machine.kernel("block_sum"), (37,), (256,), (total, d_values), (U64, U64))
        watch.launched("block_sum", 37, 256)
    assert machine.read(total, np.zeros(1, np.uint32))[0] == values.sum(dtype=np.uint32)

    d_values = machine.array(values[:512])
    with machine.watch() as watch:
        launch(machine.kernel("reverse"), (4,), (128,), (d_values,), (U64,), shared=512)
        watch.launched("reverse", 4, 128)
    expected = values[:512].reshape(4, 128)[:, ::-1]
    assert np.array_equal(machine.read(d_values, values[:512]).reshape(4, 128), expected)

    kernel = machine.kernel("saxpy")
    block_too_big = cu.cuLaunchKernel(kernel, 1, 1, 1, 1025, 1, 1, 0, 0, 0, 0)
    fails(block_too_big, "INVALID_VALUE")
    fails(cu.cuLaunchKernel(kernel, 0, 1, 1, 32, 1, 1, 0, 0, 0, 0), "INVALID_VALUE")


def case_skipped_kernel() -> None:
    """The watch itself: a launch that did not happen, and one that nobody told of."""
    machine = Machine()
    cell = machine.array(np.ones(1, np.uint32))
    for told in ((2, "chain"), (1, "saxpy"), (0, "")):
        watch = machine.watch()
        watch.__enter__()
        launch(machine.kernel("chain"), (1,), (1,), (cell, 1, 1), (U64, U32, U32))
        if told[0]:
            watch.launched(told[1], 1, 1, times=told[0])
        try:
            watch.__exit__(None)
        except AssertionError:
            continue
        raise AssertionError(f"{told} went unnoticed")


def case_launch_extra() -> None:
    """Packed parameters, cuLaunchKernelEx, cooperative launch."""
    machine = Machine()
    cell = machine.array(np.full(1, 3, np.uint32))
    kernel = machine.kernel("chain")

    class Packed(ctypes.Structure):
        _fields_ = (("x", ctypes.c_uint64), ("m", ctypes.c_uint32), ("a", ctypes.c_uint32))

    packed = Packed(int(cell), 7, 2)
    size = ctypes.c_size_t(ctypes.sizeof(packed))
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), 0)
    with machine.watch() as watch:
        do(cu.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, 0, ctypes.addressof(extra)))
        watch.launched("chain", 1, 1)
        packed.x = 0  # the driver has its own copy
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 23

    config = cu.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX = config.blockDimY = config.blockDimZ = 1
    config.hStream = cu.CUstream(0)
    with machine.watch() as watch:
        do(cu.cuLaunchKernelEx(config, kernel, ((cell, 2, 1), (U64, U32, U32)), 0))
        parameters = ((cell, 3, 0), (U64, U32, U32))
        do(cu.cuLaunchCooperativeKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, parameters))
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 141


def case_module() -> None:
    machine = Machine()
    fails(cu.cuModuleGetFunction(machine.module, b"nothing"), "NOT_FOUND")
    fails(cu.cuModuleGetGlobal(machine.module, b"nothing"), "NOT_FOUND")
    fails(cu.cuModuleLoadData(b".version 7.8\n.target sm_90\nnonsense;\n\0"), "INVALID_PTX")
    factor, size = do(cu.cuModuleGetGlobal(machine.module, b"factor"))
    assert size == 4
    assert machine.read(factor, np.zeros(1, np.float32))[0] == 2.0
    table, size = do(cu.cuModuleGetGlobal(machine.module, b"table"))
    assert size == 32
    weights, size = do(cu.cuModuleGetGlobal(machine.module, b"weights"))
    assert size == 16
    out = machine.array(np.zeros(8, np.float32))

    def lookup() -> list[float]:
        with machine.watch() as watch:
            launch(machine.kernel("lookup"), (1,), (8,), (out,), (U64,))
            watch.launched("lookup", 1, 8)
        return machine.read(out, np.zeros(8, np.float32)).tolist()

    assert lookup() == [7, 22, 308, 4002] * 2
    do(cu.cuMemcpyHtoD(factor, np.array([10], np.float32), 4))
    do(cu.cuMemcpyHtoD(table, np.array([5, 6, 7, 8], np.uint64), 32))
    do(cu.cuMemcpyHtoD(weights, np.array([1, 2, 3, 4], np.uint32), 16))
    assert lookup() == [15, 26, 37, 48] * 2

    get = cu.CUfunction_attribute
    kernel = machine.kernel("block_sum")
    shared = get.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
    assert do(cu.cuFuncGetAttribute(shared, kernel)) == 1024
    assert do(cu.cuFuncGetAttribute(get.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel)) > 0
    assert do(cu.cuFuncGetAttribute(get.CU_FUNC_ATTRIBUTE_PTX_VERSION, kernel)) == 80
    assert do(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(kernel, 256, 0)) >= 1
    reverse = machine.kernel("reverse")
    big = 60 << 10
    fails(
        cu.cuLaunchKernel(reverse, 1, 1, 1, 8, 1, 1, big, 0, ((out,), (U64,)), 0), "INVALID_VALUE"
    )
    dynamic = get.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    do(cu.cuFuncSetAttribute(reverse, dynamic, big))
    do(cu.cuLaunchKernel(reverse, 1, 1, 1, 8, 1, 1, big, 0, ((out,), (U64,)), 0))
    do(cu.cuCtxSynchronize())
    assert machine.read(out, np.zeros(8, np.float32)).tolist() == [48, 37, 26, 15] * 2

    library = do(cu.cuLibraryLoadData(PTX, [], [], 0, [], [], 0))
    kernel = do(cu.cuLibraryGetKernel(library, b"chain"))
    cell = machine.array(np.ones(1, np.uint32))
    with machine.watch() as watch:
        function = do(cu.cuKernelGetFunction(kernel))
        launch(function, (1,), (1,), (cell, 4, 4), (U64, U32, U32))
        watch.launched("chain", 1, 1)
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 8
    do(cu.cuLibraryUnload(library))
    do(cu.cuModuleUnload(machine.module))


def case_jit_log() -> None:
    do(cu.cuInit(0))
    do(cu.cuCtxCreate(None, 0, do(cu.cuDeviceGet(0))))
    log = bytearray(2048)
    options = [
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER,
        cu.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ]
    bad = PTX.replace(b"fma.rn.f32", b"fma.xx.f32")
    fails(cu.cuModuleLoadDataEx(bad, 2, options, [log, len(log)]), "INVALID_PTX")
    text = bytes(log).split(b"\0")[0].decode()
    assert "fma.xx.f32" in text or "saxpy" in text or ".xx" in text, text


def case_faults() -> None:
    """Errors of kernels: reported at the next wait, and for good."""
    machine = Machine()
    launch(machine.kernel("wild_store"), (1,), (1,), (0x10,), (ctypes.c_uint64,))
    fails(cu.cuCtxSynchronize(), "ILLEGAL_ADDRESS")
    fails(cu.cuMemAlloc(64), "ILLEGAL_ADDRESS")
    fails(cu.cuCtxSynchronize(), "ILLEGAL_ADDRESS")
    # the process is broken, as on an H200: no context helps
    fails(cu.cuCtxCreate(None, 0, machine.device), "ILLEGAL_ADDRESS")


def case_trap() -> None:
    """What a kernel stops by itself."""
    machine = Machine()
    do(cu.cuLaunchKernel(machine.kernel("stop_here"), 1, 1, 1, 1, 1, 1, 0, 0, 0, 0))
    fails(cu.cuCtxSynchronize(), "LAUNCH_FAILED")
