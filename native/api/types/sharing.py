# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""IPC, external memory, interop resources, checkpoint."""

from __future__ import annotations

from native.api.model import Type, enum, struct

TYPES: tuple[Type, ...] = (
    struct("CUmemFabricHandle_v1", 64, """
        unsigned char data[64];"""),
    struct("CUipcEventHandle_v1", 64, """
        char reserved[64];"""),
    struct("CUipcMemHandle_v1", 64, """
        char reserved[64];"""),
    enum("CUipcMem_flags", """
        CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS 1"""),
    enum("cl_event_flags", """
        NVCL_EVENT_SCHED_AUTO 0, NVCL_EVENT_SCHED_SPIN 1, NVCL_EVENT_SCHED_YIELD 2,
        NVCL_EVENT_SCHED_BLOCKING_SYNC 4"""),
    enum("cl_context_flags", """
        NVCL_CTX_SCHED_AUTO 0, NVCL_CTX_SCHED_SPIN 1, NVCL_CTX_SCHED_YIELD 2,
        NVCL_CTX_SCHED_BLOCKING_SYNC 4"""),
    enum("CUgraphicsRegisterFlags", """
        CU_GRAPHICS_REGISTER_FLAGS_NONE 0, CU_GRAPHICS_REGISTER_FLAGS_READ_ONLY 1,
        CU_GRAPHICS_REGISTER_FLAGS_WRITE_DISCARD 2, CU_GRAPHICS_REGISTER_FLAGS_SURFACE_LDST 4,
        CU_GRAPHICS_REGISTER_FLAGS_TEXTURE_GATHER 8"""),
    enum("CUgraphicsMapResourceFlags", """
        CU_GRAPHICS_MAP_RESOURCE_FLAGS_NONE 0, CU_GRAPHICS_MAP_RESOURCE_FLAGS_READ_ONLY 1,
        CU_GRAPHICS_MAP_RESOURCE_FLAGS_WRITE_DISCARD 2"""),
    enum("CUcigDataType", """
        CIG_DATA_TYPE_D3D12_COMMAND_QUEUE 1, CIG_DATA_TYPE_NV_BLOB 2"""),
    struct("CUctxCigParam", 16, """
        CUcigDataType sharedDataType; void *sharedData;"""),
    struct("CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1", 16, """
        unsigned long long p2pToken; unsigned int vaSpaceToken;"""),
    enum("CUexternalMemoryHandleType", """
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD 1,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32 2,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT 3,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP 4,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE 5,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_RESOURCE 6,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_RESOURCE_KMT 7,
        CU_EXTERNAL_MEMORY_HANDLE_TYPE_NVSCIBUF 8, CU_EXTERNAL_MEMORY_HANDLE_TYPE_DMABUF_FD 9"""),
    struct("CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1", 104, """
        CUexternalMemoryHandleType type; union { int fd; struct { void *handle;
        const void *name; } win32; const void *nvSciBufObject; } handle;
        unsigned long long size; unsigned int flags, reserved[16];"""),
    struct("CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1", 88, """
        unsigned long long offset, size; unsigned int flags, reserved[16];"""),
    struct("CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1", 120, """
        unsigned long long offset; CUDA_ARRAY3D_DESCRIPTOR arrayDesc;
        unsigned int numLevels, reserved[16];"""),
    enum("CUexternalSemaphoreHandleType", """
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD 1,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32 2,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32_KMT 3,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE 4,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D11_FENCE 5,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_NVSCISYNC 6,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D11_KEYED_MUTEX 7,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D11_KEYED_MUTEX_KMT 8,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD 9,
        CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_WIN32 10"""),
    struct("CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_v1", 96, """
        CUexternalSemaphoreHandleType type; union { int fd; struct { void *handle;
        const void *name; } win32; const void *nvSciSyncObj; } handle;
        unsigned int flags, reserved[16];"""),
    struct("CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_v1", 144, """
        struct { struct { unsigned long long value; } fence; union { void *fence;
        unsigned long long reserved; } nvSciSync; struct { unsigned long long key; } keyedMutex;
        unsigned int reserved[12]; } params; unsigned int flags, reserved[16];"""),
    struct("CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_v1", 144, """
        struct { struct { unsigned long long value; } fence; union { void *fence;
        unsigned long long reserved; } nvSciSync; struct { unsigned long long key;
        unsigned int timeoutMs; } keyedMutex; unsigned int reserved[10]; } params;
        unsigned int flags, reserved[16];"""),
    struct("CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v1", 24, """
        CUexternalSemaphore *extSemArray;
        const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS *paramsArray; unsigned int numExtSems;"""),
    struct("CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2", 24, """
        CUexternalSemaphore *extSemArray;
        const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS *paramsArray; unsigned int numExtSems;"""),
    struct("CUDA_EXT_SEM_WAIT_NODE_PARAMS_v1", 24, """
        CUexternalSemaphore *extSemArray;
        const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS *paramsArray; unsigned int numExtSems;"""),
    struct("CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2", 24, """
        CUexternalSemaphore *extSemArray;
        const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS *paramsArray; unsigned int numExtSems;"""),
    enum("CUflushGPUDirectRDMAWritesOptions", """
        CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST 1,
        CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_MEMOPS 2"""),
    enum("CUGPUDirectRDMAWritesOrdering", """
        CU_GPU_DIRECT_RDMA_WRITES_ORDERING_NONE 0, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER 100,
        CU_GPU_DIRECT_RDMA_WRITES_ORDERING_ALL_DEVICES 200"""),
    enum("CUflushGPUDirectRDMAWritesScope", """
        CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER 100,
        CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES 200"""),
    enum("CUflushGPUDirectRDMAWritesTarget", """
        CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX 0"""),
    enum("CUprocessState", """
        CU_PROCESS_STATE_RUNNING 0, CU_PROCESS_STATE_LOCKED 1, CU_PROCESS_STATE_CHECKPOINTED 2,
        CU_PROCESS_STATE_FAILED 3"""),
    struct("CUcheckpointLockArgs", 64, """
        unsigned int timeoutMs, reserved0; cuuint64_t reserved1[7];"""),
    struct("CUcheckpointCheckpointArgs", 64, """
        cuuint64_t reserved[8];"""),
    struct("CUcheckpointGpuPair", 32, """
        CUuuid oldUuid, newUuid;"""),
    struct("CUcheckpointRestoreArgs", 64, """
        CUcheckpointGpuPair *gpuPairs; unsigned int gpuPairsCount; char reserved[44];
        cuuint64_t reserved1;"""),
    struct("CUcheckpointUnlockArgs", 64, """
        cuuint64_t reserved[8];"""),
)
