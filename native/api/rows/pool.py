# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Stream-ordered memory and pools."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuMemFreeAsync", Cls.FREE, Gate.MEM_FREE, """
        cuMemFreeAsync 11020 ptsz=11020 (CUdeviceptr dptr, CUstream hStream)""",
        remote="async"),
    fn("cuMemAllocAsync", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAllocAsync 11020 ptsz=11020 (CUdeviceptr *dptr, size_t bytesize, CUstream hStream)""",
        remote="sync",
        charge=Charge.POOL),
    fn("cuMemPoolTrimTo", Cls.FREE, Gate.MEM_FREE, """
        cuMemPoolTrimTo 11020 (CUmemoryPool pool, size_t minBytesToKeep)""",
        remote="sync"),
    fn("cuMemPoolSetAttribute", Cls.OTHER, Gate.TRACK, """
        cuMemPoolSetAttribute 11020 (CUmemoryPool pool, CUmemPool_attribute attr, void *value)""",
        remote="sync value=in(attr)"),
    fn("cuMemPoolGetAttribute", Cls.QUERY, Gate.NONE, """
        cuMemPoolGetAttribute 11020 (CUmemoryPool pool, CUmemPool_attribute attr, void *value)""",
        remote="sync value=out(attr)"),
    fn("cuMemPoolSetAccess", Cls.OTHER, Gate.NONE, """
        cuMemPoolSetAccess 11020 (CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)""",
        remote="sync map=in[count]"),
    fn("cuMemPoolGetAccess", Cls.QUERY, Gate.NONE, """
        cuMemPoolGetAccess 11020 (CUmemAccess_flags *flags, CUmemoryPool memPool,
            CUmemLocation *location)""",
        remote="sync location=in"),
    fn("cuMemPoolCreate", Cls.ALLOC, Gate.TRACK, """
        cuMemPoolCreate 11020 (CUmemoryPool *pool, const CUmemPoolProps *poolProps)""",
        remote="sync pool=new",
        charge=Charge.NOTHING,
        why="a pool takes nothing until it is allocated from"),
    fn("cuMemPoolDestroy", Cls.FREE, Gate.MEM_FREE, """
        cuMemPoolDestroy 11020 (CUmemoryPool pool)""",
        remote="async pool=del"),
    fn("cuMemGetDefaultMemPool", Cls.QUERY, Gate.TRACK, """
        cuMemGetDefaultMemPool 13000 (CUmemoryPool *pool_out, CUmemLocation *location,
            CUmemAllocationType type)""",
        remote="cached pool_out=ref location=in"),
    fn("cuMemGetMemPool", Cls.QUERY, Gate.TRACK, """
        cuMemGetMemPool 13000 (CUmemoryPool *pool, CUmemLocation *location,
            CUmemAllocationType type)""",
        remote="cached pool=ref location=in"),
    fn("cuMemSetMemPool", Cls.OTHER, Gate.TRACK, """
        cuMemSetMemPool 13000 (CUmemLocation *location, CUmemAllocationType type,
            CUmemoryPool pool)""",
        remote="sync location=in"),
    fn("cuMemAllocFromPoolAsync", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemAllocFromPoolAsync 11020 ptsz=11020 (CUdeviceptr *dptr, size_t bytesize,
            CUmemoryPool pool, CUstream hStream)""",
        remote="sync",
        charge=Charge.POOL),
    fn("cuMemPoolExportToShareableHandle", Cls.OTHER, Gate.NONE, """
        cuMemPoolExportToShareableHandle 11020 (void *handle_out, CUmemoryPool pool,
            CUmemAllocationHandleType handleType, unsigned long long flags)""",
        remote="refused: not meaningful between hosts"),
    fn("cuMemPoolImportFromShareableHandle", Cls.ALLOC, Gate.TRACK, """
        cuMemPoolImportFromShareableHandle 11020 (CUmemoryPool *pool_out, void *handle,
            CUmemAllocationHandleType handleType, unsigned long long flags)""",
        remote="refused: not meaningful between hosts",
        charge=Charge.MAPPING,
        why="memory of the exporter's pool, charged to the exporter"),
    fn("cuMemPoolExportPointer", Cls.OTHER, Gate.NONE, """
        cuMemPoolExportPointer 11020 (CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)""",
        remote="refused: not meaningful between hosts"),
    fn("cuMemPoolImportPointer", Cls.ALLOC, Gate.NONE, """
        cuMemPoolImportPointer 11020 (CUdeviceptr *ptr_out, CUmemoryPool pool,
            CUmemPoolPtrExportData *shareData)""",
        remote="refused: not meaningful between hosts",
        charge=Charge.MAPPING,
        why="memory of the exporter's pool, charged to the exporter"),
)
