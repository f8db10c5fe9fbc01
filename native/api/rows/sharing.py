# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""IPC, external memory and semaphores."""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuFlushGPUDirectRDMAWrites", Cls.SYNC, Gate.NONE, """
        cuFlushGPUDirectRDMAWrites 11030 (CUflushGPUDirectRDMAWritesTarget target,
            CUflushGPUDirectRDMAWritesScope scope)"""),
    fn("cuIpcGetEventHandle", Cls.QUERY, Gate.NONE, """
        cuIpcGetEventHandle 4010 (CUipcEventHandle *pHandle, CUevent event)"""),
    fn("cuIpcOpenEventHandle", Cls.OTHER, Gate.NONE, """
        cuIpcOpenEventHandle 4010 (CUevent *phEvent, CUipcEventHandle handle)"""),
    fn("cuIpcGetMemHandle", Cls.QUERY, Gate.SEEN, """
        cuIpcGetMemHandle 4010 (CUipcMemHandle *pHandle, CUdeviceptr dptr)"""),
    fn("cuIpcOpenMemHandle", Cls.ALLOC, Gate.LATER, """
        cuIpcOpenMemHandle 4010 (CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
        cuIpcOpenMemHandle_v2 11000 (CUdeviceptr *pdptr, CUipcMemHandle handle,
            unsigned int Flags)"""),
    fn("cuIpcCloseMemHandle", Cls.FREE, Gate.NONE, """
        cuIpcCloseMemHandle 4010 (CUdeviceptr dptr)"""),
    fn("cuImportExternalMemory", Cls.ALLOC, Gate.LATER, """
        cuImportExternalMemory 10000 (CUexternalMemory *extMem_out,
            const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc)"""),
    fn("cuExternalMemoryGetMappedBuffer", Cls.ALLOC, Gate.LATER, """
        cuExternalMemoryGetMappedBuffer 10000 (CUdeviceptr *devPtr, CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc)"""),
    fn("cuExternalMemoryGetMappedMipmappedArray", Cls.ALLOC, Gate.LATER, """
        cuExternalMemoryGetMappedMipmappedArray 10000 (CUmipmappedArray *mipmap,
            CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC *mipmapDesc)"""),
    fn("cuDestroyExternalMemory", Cls.FREE, Gate.NONE, """
        cuDestroyExternalMemory 10000 (CUexternalMemory extMem)"""),
    fn("cuImportExternalSemaphore", Cls.OTHER, Gate.NONE, """
        cuImportExternalSemaphore 10000 (CUexternalSemaphore *extSem_out,
            const CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC *semHandleDesc)"""),
    fn("cuSignalExternalSemaphoresAsync", Cls.SYNC, Gate.NONE, """
        cuSignalExternalSemaphoresAsync 10000 ptsz=10000
            (const CUexternalSemaphore *extSemArray,
            const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS *paramsArray, unsigned int numExtSems,
            CUstream stream)"""),
    fn("cuWaitExternalSemaphoresAsync", Cls.SYNC, Gate.NONE, """
        cuWaitExternalSemaphoresAsync 10000 ptsz=10000 (const CUexternalSemaphore *extSemArray,
            const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS *paramsArray, unsigned int numExtSems,
            CUstream stream)"""),
    fn("cuDestroyExternalSemaphore", Cls.FREE, Gate.NONE, """
        cuDestroyExternalSemaphore 10000 (CUexternalSemaphore extSem)"""),
)
