# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Virtual memory management and multicast."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuMemGetHandleForAddressRange", Cls.QUERY, Gate.STAY, """
        cuMemGetHandleForAddressRange 11070 (void *handle, CUdeviceptr dptr, size_t size,
            CUmemRangeHandleType handleType, unsigned long long flags)""",
        remote="refused: not meaningful between hosts"),
    fn("cuMemAddressReserve", Cls.OTHER, Gate.NONE, """
        cuMemAddressReserve 10020 (CUdeviceptr *ptr, size_t size, size_t alignment,
            CUdeviceptr addr, unsigned long long flags)""",
        remote="sync addr=hint"),
    fn("cuMemAddressFree", Cls.FREE, Gate.NONE, """
        cuMemAddressFree 10020 (CUdeviceptr ptr, size_t size)""",
        remote="sync"),
    fn("cuMemCreate", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemCreate 10020 (CUmemGenericAllocationHandle *handle, size_t size,
            const CUmemAllocationProp *prop, unsigned long long flags)""",
        remote="sync handle=new",
        charge=Charge.PHYSICAL),
    fn("cuMemRelease", Cls.FREE, Gate.MEM_FREE, """
        cuMemRelease 10020 (CUmemGenericAllocationHandle handle)""",
        remote="async"),
    fn("cuMemMap", Cls.ALLOC, Gate.TRACK, """
        cuMemMap 10020 (CUdeviceptr ptr, size_t size, size_t offset,
            CUmemGenericAllocationHandle handle, unsigned long long flags)""",
        remote="sync",
        charge=Charge.MAPPING),
    fn("cuMemMapArrayAsync", Cls.ALLOC, Gate.TRACK, """
        cuMemMapArrayAsync 11010 ptsz=11010 (CUarrayMapInfo *mapInfoList, unsigned int count,
            CUstream hStream)""",
        remote="async mapInfoList=in[count]",
        charge=Charge.MAPPING),
    fn("cuMemUnmap", Cls.FREE, Gate.TRACK, """
        cuMemUnmap 10020 (CUdeviceptr ptr, size_t size)""",
        remote="sync"),
    fn("cuMemSetAccess", Cls.OTHER, Gate.NONE, """
        cuMemSetAccess 10020 (CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc,
            size_t count)""",
        remote="sync desc=in[count]"),
    fn("cuMemGetAccess", Cls.QUERY, Gate.NONE, """
        cuMemGetAccess 10020 (unsigned long long *flags, const CUmemLocation *location,
            CUdeviceptr ptr)""",
        remote="sync"),
    fn("cuMemExportToShareableHandle", Cls.OTHER, Gate.NONE, """
        cuMemExportToShareableHandle 10020 (void *shareableHandle,
            CUmemGenericAllocationHandle handle, CUmemAllocationHandleType handleType,
            unsigned long long flags)""",
        remote="refused: not meaningful between hosts"),
    fn("cuMemImportFromShareableHandle", Cls.ALLOC, Gate.NONE, """
        cuMemImportFromShareableHandle 10020 (CUmemGenericAllocationHandle *handle,
            void *osHandle, CUmemAllocationHandleType shHandleType)""",
        remote="refused: not meaningful between hosts",
        charge=Charge.MAPPING,
        why="its exporter holds it and is charged; what its maker has let go of is charged to who "
            "holds it by the reconcile"),
    fn("cuMemGetAllocationGranularity", Cls.QUERY, Gate.NONE, """
        cuMemGetAllocationGranularity 10020 (size_t *granularity,
            const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)""",
        remote="cached"),
    fn("cuMemGetAllocationPropertiesFromHandle", Cls.QUERY, Gate.NONE, """
        cuMemGetAllocationPropertiesFromHandle 10020 (CUmemAllocationProp *prop,
            CUmemGenericAllocationHandle handle)""",
        remote="sync"),
    fn("cuMemRetainAllocationHandle", Cls.ALLOC, Gate.TRACK, """
        cuMemRetainAllocationHandle 11000 (CUmemGenericAllocationHandle *handle, void *addr)""",
        remote="sync handle=ref addr=device",
        charge=Charge.MAPPING),
    fn("cuMulticastCreate", Cls.ALLOC, Gate.TRACK, """
        cuMulticastCreate 12010 (CUmemGenericAllocationHandle *mcHandle,
            const CUmulticastObjectProp *prop)""",
        remote="sync mcHandle=new",
        charge=Charge.MAPPING),
    fn("cuMulticastAddDevice", Cls.ALLOC, Gate.NONE, """
        cuMulticastAddDevice 12010 (CUmemGenericAllocationHandle mcHandle, CUdevice dev)""",
        remote="sync",
        charge=Charge.MAPPING,
        why="an address at the switch: what is bound to it was charged when it was made"),
    fn("cuMulticastBindMem", Cls.ALLOC, Gate.TRACK, """
        cuMulticastBindMem 12010 (CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
            CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
            unsigned long long flags)""",
        remote="sync",
        charge=Charge.MAPPING),
    fn("cuMulticastBindAddr", Cls.ALLOC, Gate.TRACK, """
        cuMulticastBindAddr 12010 (CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
            CUdeviceptr memptr, size_t size, unsigned long long flags)""",
        remote="sync",
        charge=Charge.MAPPING),
    fn("cuMulticastUnbind", Cls.FREE, Gate.TRACK, """
        cuMulticastUnbind 12010 (CUmemGenericAllocationHandle mcHandle, CUdevice dev,
            size_t mcOffset, size_t size)""",
        remote="sync"),
    fn("cuMulticastGetGranularity", Cls.QUERY, Gate.NONE, """
        cuMulticastGetGranularity 12010 (size_t *granularity, const CUmulticastObjectProp *prop,
            CUmulticastGranularity_flags option)""",
        remote="cached"),
)
