# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Devices."""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuDeviceGet", Cls.QUERY, Gate.NONE, """
        cuDeviceGet 2000 (CUdevice *device, int ordinal)""",
        remote="cached"),
    fn("cuDeviceGetCount", Cls.QUERY, Gate.NONE, """
        cuDeviceGetCount 2000 (int *count)""",
        remote="cached"),
    fn("cuDeviceGetName", Cls.QUERY, Gate.NONE, """
        cuDeviceGetName 2000 (char *name, int len, CUdevice dev)""",
        remote="cached name=text[len]"),
    fn("cuDeviceGetUuid", Cls.QUERY, Gate.NONE, """
        cuDeviceGetUuid 9020 (CUuuid *uuid, CUdevice dev)
        cuDeviceGetUuid_v2 11040 (CUuuid *uuid, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceGetLuid", Cls.QUERY, Gate.NONE, """
        cuDeviceGetLuid 10000 (char *luid, unsigned int *deviceNodeMask, CUdevice dev)""",
        remote="cached luid=out[8]"),
    fn("cuDeviceTotalMem", Cls.QUERY, Gate.INFO, """
        cuDeviceTotalMem 2000 (unsigned int *bytes, CUdevice dev)
        cuDeviceTotalMem_v2 3020 (size_t *bytes, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceGetTexture1DLinearMaxWidth", Cls.QUERY, Gate.NONE, """
        cuDeviceGetTexture1DLinearMaxWidth 11010 (size_t *maxWidthInElements,
            CUarray_format format, unsigned numChannels, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceGetAttribute", Cls.QUERY, Gate.NONE, """
        cuDeviceGetAttribute 2000 (int *pi, CUdevice_attribute attrib, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceGetHostAtomicCapabilities", Cls.QUERY, Gate.NONE, """
        cuDeviceGetHostAtomicCapabilities 13000 (unsigned int *capabilities,
            const CUatomicOperation *operations, unsigned int count, CUdevice dev)""",
        remote="cached capabilities=out[count] operations=in[count]"),
    fn("cuDeviceGetNvSciSyncAttributes", Cls.QUERY, Gate.NONE, """
        cuDeviceGetNvSciSyncAttributes 10020 (void *nvSciSyncAttrList, CUdevice dev, int flags)""",
        remote="refused: fills an object of a library of this machine"),
    fn("cuDeviceSetMemPool", Cls.OTHER, Gate.TRACK, """
        cuDeviceSetMemPool 11020 (CUdevice dev, CUmemoryPool pool)""",
        remote="sync"),
    fn("cuDeviceGetMemPool", Cls.QUERY, Gate.TRACK, """
        cuDeviceGetMemPool 11020 (CUmemoryPool *pool, CUdevice dev)""",
        remote="cached pool=ref"),
    fn("cuDeviceGetDefaultMemPool", Cls.QUERY, Gate.TRACK, """
        cuDeviceGetDefaultMemPool 11020 (CUmemoryPool *pool_out, CUdevice dev)""",
        remote="cached pool_out=ref"),
    fn("cuDeviceGetExecAffinitySupport", Cls.QUERY, Gate.NONE, """
        cuDeviceGetExecAffinitySupport 11040 (int *pi, CUexecAffinityType type, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceGetProperties", Cls.QUERY, Gate.NONE, """
        cuDeviceGetProperties 2000 (CUdevprop *prop, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceComputeCapability", Cls.QUERY, Gate.NONE, """
        cuDeviceComputeCapability 2000 (int *major, int *minor, CUdevice dev)""",
        remote="cached"),
    fn("cuDeviceRegisterAsyncNotification", Cls.OTHER, Gate.NONE, """
        cuDeviceRegisterAsyncNotification 12040 (CUdevice device, CUasyncCallback callbackFunc,
            void *userData, CUasyncCallbackHandle *callback)""",
        remote="refused: tells of a memory budget that the GPU's machine keeps for itself"),
    fn("cuDeviceUnregisterAsyncNotification", Cls.OTHER, Gate.NONE, """
        cuDeviceUnregisterAsyncNotification 12040 (CUdevice device,
            CUasyncCallbackHandle callback)""",
        remote="refused: none is ever registered"),
    fn("cuDeviceGetByPCIBusId", Cls.QUERY, Gate.NONE, """
        cuDeviceGetByPCIBusId 4010 (CUdevice *dev, const char *pciBusId)""",
        remote="cached"),
    fn("cuDeviceGetPCIBusId", Cls.QUERY, Gate.NONE, """
        cuDeviceGetPCIBusId 4010 (char *pciBusId, int len, CUdevice dev)""",
        remote="cached pciBusId=text[len]"),
    fn("cuDeviceGraphMemTrim", Cls.FREE, Gate.MEM_FREE, """
        cuDeviceGraphMemTrim 11040 (CUdevice device)""",
        remote="sync"),
    fn("cuDeviceGetGraphMemAttribute", Cls.QUERY, Gate.NONE, """
        cuDeviceGetGraphMemAttribute 11040 (CUdevice device, CUgraphMem_attribute attr,
            void *value)""",
        remote="sync value=out(attr)"),
    fn("cuDeviceSetGraphMemAttribute", Cls.OTHER, Gate.NONE, """
        cuDeviceSetGraphMemAttribute 11040 (CUdevice device, CUgraphMem_attribute attr,
            void *value)""",
        remote="sync value=in(attr)"),
    fn("cuDeviceCanAccessPeer", Cls.QUERY, Gate.NONE, """
        cuDeviceCanAccessPeer 4000 (int *canAccessPeer, CUdevice dev, CUdevice peerDev)""",
        remote="cached"),
    fn("cuDeviceGetP2PAttribute", Cls.QUERY, Gate.NONE, """
        cuDeviceGetP2PAttribute 8000 (int *value, CUdevice_P2PAttribute attrib,
            CUdevice srcDevice, CUdevice dstDevice)""",
        remote="cached"),
    fn("cuDeviceGetP2PAtomicCapabilities", Cls.QUERY, Gate.NONE, """
        cuDeviceGetP2PAtomicCapabilities 13000 (unsigned int *capabilities,
            const CUatomicOperation *operations, unsigned int count, CUdevice srcDevice,
            CUdevice dstDevice)""",
        remote="cached capabilities=out[count] operations=in[count]"),
)
