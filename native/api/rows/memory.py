# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Linear, pinned and managed memory; pointer queries."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuMemGetInfo", Cls.QUERY, Gate.INFO, """
        cuMemGetInfo 2000 (unsigned int *free, unsigned int *total)
        cuMemGetInfo_v2 3020 (size_t *free, size_t *total)""",
        remote="cached"),
    fn("cuMemAlloc", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAlloc 2000 (CUdeviceptr_v1 *dptr, unsigned int bytesize)
        cuMemAlloc_v2 3020 (CUdeviceptr *dptr, size_t bytesize)""",
        remote="sync",
        charge=Charge.LINEAR),
    fn("cuMemAllocPitch", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAllocPitch 2000 (CUdeviceptr_v1 *dptr, unsigned int *pPitch,
            unsigned int WidthInBytes, unsigned int Height, unsigned int ElementSizeBytes)
        cuMemAllocPitch_v2 3020 (CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
            size_t Height, unsigned int ElementSizeBytes)""",
        remote="sync",
        charge=Charge.PITCH),
    fn("cuMemFree", Cls.FREE, Gate.MEM_FREE, """
        cuMemFree 2000 (CUdeviceptr_v1 dptr)
        cuMemFree_v2 3020 (CUdeviceptr dptr)""",
        remote="async"),
    fn("cuMemGetAddressRange", Cls.QUERY, Gate.SEEN, """
        cuMemGetAddressRange 2000 (CUdeviceptr_v1 *pbase, unsigned int *psize,
            CUdeviceptr_v1 dptr)
        cuMemGetAddressRange_v2 3020 (CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)""",
        remote="cached"),
    fn("cuMemAllocHost", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAllocHost 2000 (void **pp, unsigned int bytesize)
        cuMemAllocHost_v2 3020 (void **pp, size_t bytesize)""",
        remote="local: pinned memory is this machine's; copies of it go through transfers",
        charge=Charge.HOST),
    fn("cuMemFreeHost", Cls.FREE, Gate.MEM_FREE, """
        cuMemFreeHost 2000 (void *p)""",
        remote="local: pinned memory is this machine's"),
    fn("cuMemHostAlloc", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemHostAlloc 2020 (void **pp, size_t bytesize, unsigned int Flags)""",
        remote="local: pinned memory is this machine's; CU_MEMHOSTALLOC_DEVICEMAP is refused",
        charge=Charge.HOST),
    fn("cuMemHostGetDevicePointer", Cls.QUERY, Gate.NONE, """
        cuMemHostGetDevicePointer 2020 (CUdeviceptr_v1 *pdptr, void *p, unsigned int Flags)
        cuMemHostGetDevicePointer_v2 3020 (CUdeviceptr *pdptr, void *p, unsigned int Flags)""",
        remote="refused: no kernel elsewhere reaches memory of this machine"),
    fn("cuMemHostGetFlags", Cls.QUERY, Gate.NONE, """
        cuMemHostGetFlags 2030 (unsigned int *pFlags, void *p)""",
        remote="local: pinned memory is this machine's"),
    fn("cuMemAllocManaged", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAllocManaged 6000 (CUdeviceptr *dptr, size_t bytesize, unsigned int flags)""",
        remote="refused: managed memory: its pages would cross the wire at every fault",
        charge=Charge.MANAGED),
    fn("cuMemHostRegister", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemHostRegister 4000 (void *p, size_t bytesize, unsigned int Flags)
        cuMemHostRegister_v2 6050 (void *p, size_t bytesize, unsigned int Flags)""",
        remote="local: pinned memory is this machine's; CU_MEMHOSTREGISTER_DEVICEMAP is refused",
        charge=Charge.HOST),
    fn("cuMemHostUnregister", Cls.FREE, Gate.MEM_FREE, """
        cuMemHostUnregister 4000 (void *p)""",
        remote="local: pinned memory is this machine's"),
    fn("cuPointerGetAttribute", Cls.QUERY, Gate.SEEN, """
        cuPointerGetAttribute 4000 (void *data, CUpointer_attribute attribute, CUdeviceptr ptr)""",
        remote="local: the client knows all allocations of its session"),
    fn("cuMemPrefetchAsync", Cls.COPY, Gate.COPY, """
        cuMemPrefetchAsync 8000 ptsz=8000 (CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
            CUstream hStream)
        cuMemPrefetchAsync_v2 12020 ptsz=12020 (CUdeviceptr devPtr, size_t count,
            CUmemLocation location, unsigned int flags, CUstream hStream)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemAdvise", Cls.OTHER, Gate.TOUCH, """
        cuMemAdvise 8000 (CUdeviceptr devPtr, size_t count, CUmem_advise advice,
            CUdevice device)
        cuMemAdvise_v2 12020 (CUdeviceptr devPtr, size_t count, CUmem_advise advice,
            CUmemLocation location)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemPrefetchBatchAsync", Cls.COPY, Gate.COPY, """
        cuMemPrefetchBatchAsync 13000 ptsz=13000 (CUdeviceptr *dptrs, size_t *sizes,
            size_t count, CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs,
            size_t numPrefetchLocs, unsigned long long flags, CUstream hStream)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemDiscardBatchAsync", Cls.FREE, Gate.NONE, """
        cuMemDiscardBatchAsync 13000 ptsz=13000 (CUdeviceptr *dptrs, size_t *sizes,
            size_t count, unsigned long long flags, CUstream hStream)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemDiscardAndPrefetchBatchAsync", Cls.COPY, Gate.COPY, """
        cuMemDiscardAndPrefetchBatchAsync 13000 ptsz=13000 (CUdeviceptr *dptrs, size_t *sizes,
            size_t count, CUmemLocation *prefetchLocs, size_t *prefetchLocIdxs,
            size_t numPrefetchLocs, unsigned long long flags, CUstream hStream)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemRangeGetAttribute", Cls.QUERY, Gate.NONE, """
        cuMemRangeGetAttribute 8000 (void *data, size_t dataSize,
            CUmem_range_attribute attribute, CUdeviceptr devPtr, size_t count)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuMemRangeGetAttributes", Cls.QUERY, Gate.NONE, """
        cuMemRangeGetAttributes 8000 (void **data, size_t *dataSizes,
            CUmem_range_attribute *attributes, size_t numAttributes, CUdeviceptr devPtr,
            size_t count)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuPointerSetAttribute", Cls.OTHER, Gate.STAY, """
        cuPointerSetAttribute 6000 (const void *value, CUpointer_attribute attribute,
            CUdeviceptr ptr)""",
        remote="sync value=in(attribute)"),
    fn("cuPointerGetAttributes", Cls.QUERY, Gate.SEEN, """
        cuPointerGetAttributes 7000 (unsigned int numAttributes,
            CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)""",
        remote="local: the client knows all allocations of its session"),
)
