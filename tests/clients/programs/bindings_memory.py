# SPDX-License-Identifier: Apache-2.0
"""cuda-python: contexts and memory."""

from __future__ import annotations

import ctypes

import numpy as np
from bindings_machine import MIB, U32, U64, Machine, do, fails, launch
from cuda.bindings import driver as cu


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
