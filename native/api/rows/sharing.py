# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""IPC, external memory and semaphores."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuFlushGPUDirectRDMAWrites", Cls.SYNC, Gate.NONE, """
        cuFlushGPUDirectRDMAWrites 11030 (CUflushGPUDirectRDMAWritesTarget target,
            CUflushGPUDirectRDMAWritesScope scope)""",
        remote="refused: orders writes of devices of this machine"),
    fn("cuIpcGetEventHandle", Cls.QUERY, Gate.NONE, """
        cuIpcGetEventHandle 4010 (CUipcEventHandle *pHandle, CUevent event)""",
        remote="refused: not meaningful between hosts"),
    fn("cuIpcOpenEventHandle", Cls.OTHER, Gate.NONE, """
        cuIpcOpenEventHandle 4010 (CUevent *phEvent, CUipcEventHandle handle)""",
        remote="refused: not meaningful between hosts"),
    fn("cuIpcGetMemHandle", Cls.QUERY, Gate.SEEN, """
        cuIpcGetMemHandle 4010 (CUipcMemHandle *pHandle, CUdeviceptr dptr)""",
        remote="refused: not meaningful between hosts"),
    fn("cuIpcOpenMemHandle", Cls.ALLOC, Gate.NONE, """
        cuIpcOpenMemHandle 4010 (CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
        cuIpcOpenMemHandle_v2 11000 (CUdeviceptr *pdptr, CUipcMemHandle handle,
            unsigned int Flags)""",
        remote="refused: not meaningful between hosts",
        charge=Charge.MAPPING,
        why="its exporter holds it and is charged; who opened it holds no memory of its own"),
    fn("cuIpcCloseMemHandle", Cls.FREE, Gate.NONE, """
        cuIpcCloseMemHandle 4010 (CUdeviceptr dptr)""",
        remote="refused: not meaningful between hosts"),
    fn("cuImportExternalMemory", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuImportExternalMemory 10000 (CUexternalMemory *extMem_out,
            const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc)""",
        remote="refused: an object of another interface of this machine",
        charge=Charge.FOREIGN),
    fn("cuExternalMemoryGetMappedBuffer", Cls.ALLOC, Gate.NONE, """
        cuExternalMemoryGetMappedBuffer 10000 (CUdeviceptr *devPtr, CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc)""",
        remote="refused: an object of another interface of this machine",
        charge=Charge.MAPPING,
        why="charged when the external memory was imported"),
    fn("cuExternalMemoryGetMappedMipmappedArray", Cls.ALLOC, Gate.NONE, """
        cuExternalMemoryGetMappedMipmappedArray 10000 (CUmipmappedArray *mipmap,
            CUexternalMemory extMem,
            const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC *mipmapDesc)""",
        remote="refused: an object of another interface of this machine",
        charge=Charge.MAPPING,
        why="charged when the external memory was imported"),
    fn("cuDestroyExternalMemory", Cls.FREE, Gate.MEM_FREE, """
        cuDestroyExternalMemory 10000 (CUexternalMemory extMem)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuImportExternalSemaphore", Cls.OTHER, Gate.NONE, """
        cuImportExternalSemaphore 10000 (CUexternalSemaphore *extSem_out,
            const CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC *semHandleDesc)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuSignalExternalSemaphoresAsync", Cls.SYNC, Gate.NONE, """
        cuSignalExternalSemaphoresAsync 10000 ptsz=10000
            (const CUexternalSemaphore *extSemArray,
            const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS *paramsArray, unsigned int numExtSems,
            CUstream stream)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuWaitExternalSemaphoresAsync", Cls.SYNC, Gate.NONE, """
        cuWaitExternalSemaphoresAsync 10000 ptsz=10000 (const CUexternalSemaphore *extSemArray,
            const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS *paramsArray, unsigned int numExtSems,
            CUstream stream)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuDestroyExternalSemaphore", Cls.FREE, Gate.NONE, """
        cuDestroyExternalSemaphore 10000 (CUexternalSemaphore extSem)""",
        remote="refused: an object of another interface of this machine"),
)
