# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""IPC, external memory and semaphores."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

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
    fn("cuIpcOpenMemHandle", Cls.ALLOC, Gate.NONE, """
        cuIpcOpenMemHandle 4010 (CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
        cuIpcOpenMemHandle_v2 11000 (CUdeviceptr *pdptr, CUipcMemHandle handle,
            unsigned int Flags)""",
        charge=Charge.MAPPING,
        why="its exporter holds it and is charged; who opened it holds no memory of its own"),
    fn("cuIpcCloseMemHandle", Cls.FREE, Gate.NONE, """
        cuIpcCloseMemHandle 4010 (CUdeviceptr dptr)"""),
    fn("cuImportExternalMemory", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuImportExternalMemory 10000 (CUexternalMemory *extMem_out,
            const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc)""",
        charge=Charge.FOREIGN),
    fn("cuExternalMemoryGetMappedBuffer", Cls.ALLOC, Gate.NONE, """
        cuExternalMemoryGetMappedBuffer 10000 (CUdeviceptr *devPtr, CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc)""",
        charge=Charge.MAPPING,
        why="charged when the external memory was imported"),
    fn("cuExternalMemoryGetMappedMipmappedArray", Cls.ALLOC, Gate.NONE, """
        cuExternalMemoryGetMappedMipmappedArray 10000 (CUmipmappedArray *mipmap,
            CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC *mipmapDesc)""",
        charge=Charge.MAPPING,
        why="charged when the external memory was imported"),
    fn("cuDestroyExternalMemory", Cls.FREE, Gate.MEM_FREE, """
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
