# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Virtual memory management and multicast."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuMemGetHandleForAddressRange", Cls.QUERY, Gate.STAY, """
        cuMemGetHandleForAddressRange 11070 (void *handle, CUdeviceptr dptr, size_t size,
            CUmemRangeHandleType handleType, unsigned long long flags)"""),
    fn("cuMemAddressReserve", Cls.OTHER, Gate.NONE, """
        cuMemAddressReserve 10020 (CUdeviceptr *ptr, size_t size, size_t alignment,
            CUdeviceptr addr, unsigned long long flags)"""),
    fn("cuMemAddressFree", Cls.FREE, Gate.NONE, """
        cuMemAddressFree 10020 (CUdeviceptr ptr, size_t size)"""),
    fn("cuMemCreate", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuMemCreate 10020 (CUmemGenericAllocationHandle *handle, size_t size,
            const CUmemAllocationProp *prop, unsigned long long flags)""",
        charge=Charge.PHYSICAL),
    fn("cuMemRelease", Cls.FREE, Gate.MEM_FREE, """
        cuMemRelease 10020 (CUmemGenericAllocationHandle handle)"""),
    fn("cuMemMap", Cls.ALLOC, Gate.TRACK, """
        cuMemMap 10020 (CUdeviceptr ptr, size_t size, size_t offset,
            CUmemGenericAllocationHandle handle, unsigned long long flags)""",
        charge=Charge.MAPPING),
    fn("cuMemMapArrayAsync", Cls.ALLOC, Gate.TRACK, """
        cuMemMapArrayAsync 11010 ptsz=11010 (CUarrayMapInfo *mapInfoList, unsigned int count,
            CUstream hStream)""",
        charge=Charge.MAPPING),
    fn("cuMemUnmap", Cls.FREE, Gate.TRACK, """
        cuMemUnmap 10020 (CUdeviceptr ptr, size_t size)"""),
    fn("cuMemSetAccess", Cls.OTHER, Gate.NONE, """
        cuMemSetAccess 10020 (CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc,
            size_t count)"""),
    fn("cuMemGetAccess", Cls.QUERY, Gate.NONE, """
        cuMemGetAccess 10020 (unsigned long long *flags, const CUmemLocation *location,
            CUdeviceptr ptr)"""),
    fn("cuMemExportToShareableHandle", Cls.OTHER, Gate.NONE, """
        cuMemExportToShareableHandle 10020 (void *shareableHandle,
            CUmemGenericAllocationHandle handle, CUmemAllocationHandleType handleType,
            unsigned long long flags)"""),
    fn("cuMemImportFromShareableHandle", Cls.ALLOC, Gate.NONE, """
        cuMemImportFromShareableHandle 10020 (CUmemGenericAllocationHandle *handle,
            void *osHandle, CUmemAllocationHandleType shHandleType)""",
        charge=Charge.MAPPING,
        why="its exporter holds it and is charged; what its maker has let go of is charged to who "
            "holds it by the reconcile"),
    fn("cuMemGetAllocationGranularity", Cls.QUERY, Gate.NONE, """
        cuMemGetAllocationGranularity 10020 (size_t *granularity,
            const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)"""),
    fn("cuMemGetAllocationPropertiesFromHandle", Cls.QUERY, Gate.NONE, """
        cuMemGetAllocationPropertiesFromHandle 10020 (CUmemAllocationProp *prop,
            CUmemGenericAllocationHandle handle)"""),
    fn("cuMemRetainAllocationHandle", Cls.ALLOC, Gate.TRACK, """
        cuMemRetainAllocationHandle 11000 (CUmemGenericAllocationHandle *handle, void *addr)""",
        charge=Charge.MAPPING),
    fn("cuMulticastCreate", Cls.ALLOC, Gate.TRACK, """
        cuMulticastCreate 12010 (CUmemGenericAllocationHandle *mcHandle,
            const CUmulticastObjectProp *prop)""",
        charge=Charge.MAPPING),
    fn("cuMulticastAddDevice", Cls.ALLOC, Gate.NONE, """
        cuMulticastAddDevice 12010 (CUmemGenericAllocationHandle mcHandle, CUdevice dev)""",
        charge=Charge.MAPPING,
        why="an address at the switch: what is bound to it was charged when it was made"),
    fn("cuMulticastBindMem", Cls.ALLOC, Gate.TRACK, """
        cuMulticastBindMem 12010 (CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
            CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
            unsigned long long flags)""",
        charge=Charge.MAPPING),
    fn("cuMulticastBindAddr", Cls.ALLOC, Gate.TRACK, """
        cuMulticastBindAddr 12010 (CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
            CUdeviceptr memptr, size_t size, unsigned long long flags)""",
        charge=Charge.MAPPING),
    fn("cuMulticastUnbind", Cls.FREE, Gate.TRACK, """
        cuMulticastUnbind 12010 (CUmemGenericAllocationHandle mcHandle, CUdevice dev,
            size_t mcOffset, size_t size)"""),
    fn("cuMulticastGetGranularity", Cls.QUERY, Gate.NONE, """
        cuMulticastGetGranularity 12010 (size_t *granularity, const CUmulticastObjectProp *prop,
            CUmulticastGranularity_flags option)"""),
)
