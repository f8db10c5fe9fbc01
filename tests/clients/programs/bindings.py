# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202
"""cuda-python (cuda.bindings.driver) against the driver: `bindings.py CASE`.

Each case asserts what it sees; kernels must have been executed to the last thread.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from counters import WATCHED, Watch
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


# ---------------------------------------------------------------------------------- context -----
def case_context() -> None:
    fails(cu.cuDeviceGetCount(), "NOT_INITIALIZED")
    do(cu.cuInit(0))
    assert do(cu.cuDriverGetVersion()) == 13000
    assert do(cu.cuDeviceGetCount()) == 1
    fails(cu.cuDeviceGet(1), "INVALID_DEVICE")
    fails(cu.cuMemAlloc(64), "INVALID_CONTEXT")
    device = do(cu.cuDeviceGet(0))
    assert do(cu.cuDeviceGetName(64, device)).split(b"\0")[0].startswith(b"HARP Software GPU")
    get = cu.CUdevice_attribute
    for name, low, high in (
        ("WARP_SIZE", 32, 32),
        ("COMPUTE_CAPABILITY_MAJOR", 9, 9),
        ("MAX_THREADS_PER_BLOCK", 1024, 1024),
        ("MULTIPROCESSOR_COUNT", 1, 1000),
        ("MAX_GRID_DIM_Y", 65535, 65535),
        ("MAX_SHARED_MEMORY_PER_BLOCK", 48 << 10, 48 << 10),
        ("UNIFIED_ADDRESSING", 1, 1),
    ):
        value = do(cu.cuDeviceGetAttribute(getattr(get, f"CU_DEVICE_ATTRIBUTE_{name}"), device))
        assert low <= value <= high, (name, value)
    total = do(cu.cuDeviceTotalMem(device))
    assert total > 70 << 30
    uuid = bytes(do(cu.cuDeviceGetUuid(device)).bytes)
    assert len(uuid) == 16
    assert any(uuid)

    first = do(cu.cuCtxCreate(None, 0, device))
    second = do(cu.cuCtxCreate(None, 0, device))
    assert int(do(cu.cuCtxGetCurrent())) == int(second)
    assert int(do(cu.cuCtxPopCurrent())) == int(second)
    assert int(do(cu.cuCtxGetCurrent())) == int(first)
    do(cu.cuCtxPushCurrent(second))
    assert int(do(cu.cuCtxGetDevice())) == int(device)
    low, high = do(cu.cuCtxGetStreamPriorityRange())
    assert low >= high
    do(cu.cuCtxDestroy(second))
    do(cu.cuCtxSetCurrent(first))
    primary = do(cu.cuDevicePrimaryCtxRetain(device))
    flags, active = do(cu.cuDevicePrimaryCtxGetState(device))
    assert active == 1
    assert int(do(cu.cuDevicePrimaryCtxRetain(device))) == int(primary)
    do(cu.cuDevicePrimaryCtxRelease(device))
    do(cu.cuDevicePrimaryCtxRelease(device))
    flags, active = do(cu.cuDevicePrimaryCtxGetState(device))
    assert (flags, active) == (0, 0)
    fails(cu.cuDevicePrimaryCtxRelease(device), "INVALID_CONTEXT")
    do(cu.cuCtxDestroy(first))
    assert int(do(cu.cuCtxGetCurrent())) == 0
    assert do(cu.cuGetErrorName(cu.CUresult(2))) == b"CUDA_ERROR_OUT_OF_MEMORY"
    assert do(cu.cuGetErrorString(cu.CUresult(2)))


# ----------------------------------------------------------------------------------- memory -----
def case_memory() -> None:
    Machine()
    free, total = do(cu.cuMemGetInfo())
    assert 0 < free < total
    big = do(cu.cuMemAlloc(100 * MIB))
    assert free - do(cu.cuMemGetInfo())[0] == 100 * MIB
    do(cu.cuMemFree(big))
    assert do(cu.cuMemGetInfo())[0] == free
    fails(cu.cuMemAlloc(total + MIB), "OUT_OF_MEMORY")
    fails(cu.cuMemAlloc(0), "INVALID_VALUE")
    fails(cu.cuMemFree(cu.CUdeviceptr(12345)), "INVALID_VALUE")

    a = do(cu.cuMemAlloc(1000))
    base, size = do(cu.cuMemGetAddressRange(cu.CUdeviceptr(int(a) + 10)))
    assert (int(base), size) == (int(a), 1000)
    do(cu.cuMemsetD8(a, 7, 1000))
    out = np.zeros(1000, np.uint8)
    do(cu.cuMemcpyDtoH(out, a, 1000))
    assert (out == 7).all()
    do(cu.cuMemsetD16(a, 0xABCD, 500))
    do(cu.cuMemsetD32(cu.CUdeviceptr(int(a) + 400), 0xDEADBEEF, 10))
    do(cu.cuMemcpyDtoH(out, a, 1000))
    expected = np.full(500, 0xABCD, np.uint16)
    expected[200:220] = np.tile(np.frombuffer(np.uint32(0xDEADBEEF).tobytes(), np.uint16), 10)
    assert (out.view(np.uint16) == expected).all()

    b = do(cu.cuMemAlloc(1000))
    data = np.random.default_rng(3).integers(0, 255, 1000, dtype=np.uint8)
    do(cu.cuMemcpyHtoD(a, data, 1000))
    do(cu.cuMemcpyDtoD(cu.CUdeviceptr(int(b) + 100), a, 900))
    do(cu.cuMemcpyDtoH(out[:900], cu.CUdeviceptr(int(b) + 100), 900))
    assert (out[:900] == data[:900]).all()
    do(cu.cuMemcpy(b, a, 1000))  # unified addressing: kinds are found out
    do(cu.cuMemcpyDtoH(out, b, 1000))
    assert (out == data).all()

    pitched, pitch = do(cu.cuMemAllocPitch(100, 7, 4))
    assert pitch >= 100
    image = np.arange(700, dtype=np.uint8).reshape(7, 100)
    copy = cu.CUDA_MEMCPY2D()
    copy.srcMemoryType = cu.CUmemorytype.CU_MEMORYTYPE_HOST
    copy.srcHost, copy.srcPitch = image.ctypes.data, 100
    copy.dstMemoryType = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.dstDevice, copy.dstPitch = pitched, pitch
    copy.WidthInBytes, copy.Height = 100, 7
    do(cu.cuMemcpy2D(copy))
    row = np.zeros(100, np.uint8)
    do(cu.cuMemcpyDtoH(row, cu.CUdeviceptr(int(pitched) + 3 * pitch), 100))
    assert (row == image[3]).all()


def case_host_memory() -> None:
    machine = Machine()
    portable_mapped = 1 | 2
    address = int(do(cu.cuMemHostAlloc(4096, portable_mapped)))
    host = np.frombuffer((ctypes.c_uint32 * 1024).from_address(address), np.uint32)
    host[:] = np.arange(1024)
    mapped = do(cu.cuMemHostGetDevicePointer(address, 0))
    with machine.watch() as watch:
        kernel = machine.kernel("chain")
        launch(kernel, (1,), (1,), (mapped, 5, 9), (U64, U32, U32))
        watch.launched("chain", 1, 1)
    do(cu.cuCtxSynchronize())
    assert host[0] == 9
    get = cu.CUpointer_attribute
    assert do(cu.cuPointerGetAttribute(get.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)) == (
        cu.CUmemorytype.CU_MEMORYTYPE_HOST
    )
    device = machine.array(np.zeros(4, np.uint32))
    assert do(cu.cuPointerGetAttribute(get.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, int(device))) == (
        cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    )
    plain = np.zeros(3000, np.uint8)
    kind = get.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    fails(cu.cuPointerGetAttribute(kind, plain.ctypes.data), "INVALID_VALUE")
    do(cu.cuMemHostRegister(plain.ctypes.data, plain.nbytes, 0))
    assert do(cu.cuPointerGetAttribute(kind, plain.ctypes.data)) == (
        cu.CUmemorytype.CU_MEMORYTYPE_HOST
    )
    do(cu.cuMemHostUnregister(plain.ctypes.data))
    fails(cu.cuMemHostUnregister(plain.ctypes.data), "HOST_MEMORY_NOT_REGISTERED")
    do(cu.cuMemFreeHost(address))


# -------------------------------------------------------------------------- streams, events -----
def case_streams() -> None:
    machine = Machine()
    sleep, chain = machine.kernel("sleep"), machine.kernel("chain")
    one = do(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
    two = do(cu.cuStreamCreateWithPriority(cu.CUstream_flags.CU_STREAM_NON_BLOCKING, 0))
    cell = machine.array(np.ones(1, np.uint32))
    with machine.watch() as watch:
        launch(sleep, (1,), (1,), (300,), (U32,), stream=one)  # 30 ms
        assert cu.cuStreamQuery(one)[0] == cu.CUresult.CUDA_ERROR_NOT_READY
        assert cu.cuStreamQuery(two)[0] == OK
        launch(chain, (1,), (1,), (cell, 2, 3), (U64, U32, U32), stream=one)  # 5
        event = do(cu.cuEventCreate(0))
        do(cu.cuEventRecord(event, one))
        assert cu.cuEventQuery(event)[0] == cu.CUresult.CUDA_ERROR_NOT_READY
        do(cu.cuStreamWaitEvent(two, event, 0))
        launch(chain, (1,), (1,), (cell, 10, 1), (U64, U32, U32), stream=two)  # 51
        do(cu.cuStreamSynchronize(two))
        assert cu.cuEventQuery(event)[0] == OK
        assert cu.cuStreamQuery(one)[0] == OK
        watch.launched("sleep", 1, 1)
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 51

    # An asynchronous copy waits for its stream; pinned memory must be intact until then.
    host = int(do(cu.cuMemHostAlloc(4, 0)))
    value = ctypes.c_uint32.from_address(host)
    value.value = 1000
    launch(sleep, (1,), (1,), (200,), (U32,), stream=one)
    do(cu.cuMemcpyHtoDAsync(cell, host, 4, one))
    value_seen_before = machine.read(cell, np.zeros(1, np.uint32))[0]
    assert value_seen_before == 51  # `one` is non-blocking: the legacy stream does not wait
    launch(chain, (1,), (1,), (cell, 1, 1), (U64, U32, U32), stream=one)
    do(cu.cuStreamSynchronize(one))
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 1001

    # The legacy stream waits for blocking streams, and they for it.
    three = do(cu.cuStreamCreate(0))
    launch(sleep, (1,), (1,), (200,), (U32,), stream=three)
    launch(chain, (1,), (1,), (cell, 0, 4), (U64, U32, U32), stream=three)
    launch(chain, (1,), (1,), (cell, 2, 0), (U64, U32, U32))
    launch(chain, (1,), (1,), (cell, 3, 1), (U64, U32, U32), stream=three)
    do(cu.cuStreamSynchronize(three))
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 25
    for stream in (one, two, three):
        do(cu.cuStreamDestroy(stream))


def case_events() -> None:
    machine = Machine()
    sleep = machine.kernel("sleep")
    launch(sleep, (1,), (1,), (1,), (U32,))  # compiled now, not between the events
    start, stop = do(cu.cuEventCreate(0)), do(cu.cuEventCreate(0))
    untimed = do(cu.cuEventCreate(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))
    fails(cu.cuEventElapsedTime(start, stop), "INVALID_HANDLE")  # never recorded
    do(cu.cuEventRecord(start, 0))
    launch(sleep, (1,), (1,), (250,), (U32,))  # 25 ms of device time
    do(cu.cuEventRecord(stop, 0))
    do(cu.cuEventRecord(untimed, 0))
    fails(cu.cuEventElapsedTime(start, stop), "NOT_READY")
    do(cu.cuEventSynchronize(stop))
    elapsed_ms = do(cu.cuEventElapsedTime(start, stop))
    assert 25 <= elapsed_ms < 200, elapsed_ms
    do(cu.cuEventSynchronize(untimed))
    fails(cu.cuEventElapsedTime(start, untimed), "INVALID_HANDLE")
    for event in (start, stop, untimed):
        do(cu.cuEventDestroy(event))


def case_host_function() -> None:
    machine = Machine()
    sleep = machine.kernel("sleep")
    seen = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def note(data):
        seen.append(data)

    address = ctypes.cast(note, ctypes.c_void_p).value
    stream = do(cu.cuStreamCreate(1))
    launch(sleep, (1,), (1,), (200,), (U32,), stream=stream)
    do(cu.cuLaunchHostFunc(stream, cu.CUhostFn(address), 77))
    do(cu.cuLaunchHostFunc(stream, cu.CUhostFn(address), 78))
    assert seen == []
    do(cu.cuStreamSynchronize(stream))
    assert seen == [77, 78]


# --------------------------------------------------------------------------- module, launch -----
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


# ------------------------------------------------------------------------------------ graphs ----
def _kernel_params(kernel, packed) -> cu.CUDA_KERNEL_NODE_PARAMS:
    params = cu.CUDA_KERNEL_NODE_PARAMS()
    params.func = kernel
    params.gridDimX = params.gridDimY = params.gridDimZ = 1
    params.blockDimX = params.blockDimY = params.blockDimZ = 1
    params.kernelParams = packed
    return params


def case_graph_explicit() -> None:
    machine = Machine()
    cell = machine.array(np.ones(1, np.uint32))
    other = machine.array(np.zeros(1, np.uint32))
    chain = machine.kernel("chain")
    types = (U64, U32, U32)
    graph = do(cu.cuGraphCreate(0))
    times3 = _kernel_params(chain, ((cell, 3, 0), types))
    first = do(cu.cuGraphAddKernelNode(graph, [], 0, times3))
    plus5 = _kernel_params(chain, ((cell, 1, 5), types))
    second = do(cu.cuGraphAddKernelNode(graph, [first], 1, plus5))
    copy = cu.CUDA_MEMCPY3D()
    copy.srcMemoryType = copy.dstMemoryType = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.srcDevice, copy.dstDevice = cell, other
    copy.WidthInBytes, copy.Height, copy.Depth = 4, 1, 1
    third = do(cu.cuGraphAddMemcpyNode(graph, [second], 1, copy, machine.context))
    memset = cu.CUDA_MEMSET_NODE_PARAMS()
    memset.dst, memset.value, memset.elementSize = cell, 100, 4
    memset.width, memset.height = 1, 1
    fourth = do(cu.cuGraphAddMemsetNode(graph, [third], 1, memset, machine.context))
    do(cu.cuGraphAddEmptyNode(graph, [fourth], 1))
    _, count = do(cu.cuGraphGetNodes(graph, 10))
    assert count == 5
    ready = do(cu.cuGraphInstantiate(graph, 0))
    with machine.watch() as watch:
        do(cu.cuGraphLaunch(ready, 0))
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 8
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 100

    stream = do(cu.cuStreamCreate(1))
    with machine.watch() as watch:
        for _ in range(5):
            do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=10)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 305

    plus7 = _kernel_params(chain, ((cell, 1, 7), types))
    do(cu.cuGraphExecKernelNodeSetParams(ready, second, plus7))
    with machine.watch() as watch:
        do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 307
    do(cu.cuGraphExecDestroy(ready))
    do(cu.cuGraphDestroy(graph))


def case_graph_captured() -> None:
    machine = Machine()
    cell = machine.array(np.ones(1, np.uint32))
    side = machine.array(np.ones(1, np.uint32))
    out = np.zeros(2, np.uint32)
    chain = machine.kernel("chain")
    types = (U64, U32, U32)
    stream, fork = do(cu.cuStreamCreate(1)), do(cu.cuStreamCreate(1))
    forked, joined = do(cu.cuEventCreate(2)), do(cu.cuEventCreate(2))
    mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    with machine.watch() as watch:
        do(cu.cuStreamBeginCapture(stream, mode))
        launch(chain, (1,), (1,), (cell, 2, 1), types, stream=stream)
        do(cu.cuEventRecord(forked, stream))
        do(cu.cuStreamWaitEvent(fork, forked, 0))
        launch(chain, (1,), (1,), (side, 10, 0), types, stream=fork)
        do(cu.cuEventRecord(joined, fork))
        launch(chain, (1,), (1,), (cell, 1, 1), types, stream=stream)
        do(cu.cuStreamWaitEvent(stream, joined, 0))
        do(cu.cuMemcpyDtoDAsync(cu.CUdeviceptr(int(cell)), side, 4, stream))
        capturing = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        assert do(cu.cuStreamIsCapturing(stream)) == capturing
        graph = do(cu.cuStreamEndCapture(stream))
    # Nothing ran while it was captured.
    assert machine.read(cell, out[:1])[0] == 1
    _, count = do(cu.cuGraphGetNodes(graph, 10))
    assert count == 4
    ready = do(cu.cuGraphInstantiate(graph, 0))
    with machine.watch() as watch:
        for _ in range(3):
            do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=9)
    assert machine.read(side, out[:1])[0] == 1000
    assert machine.read(cell, out[:1])[0] == 1000
    do(cu.cuGraphExecDestroy(ready))
    do(cu.cuGraphDestroy(graph))
    # What may not be done while capturing spoils the capture.
    do(cu.cuStreamBeginCapture(stream, mode))
    fails(cu.cuStreamSynchronize(stream), "STREAM_CAPTURE_UNSUPPORTED")
    fails(cu.cuStreamEndCapture(stream), "STREAM_CAPTURE_INVALIDATED")


CASES = {name[5:]: value for name, value in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(json.dumps(list(CASES)))
    else:
        CASES[sys.argv[1]]()
        print(json.dumps("ok"))
