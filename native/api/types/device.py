# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Devices, contexts, limits and the rest."""

from __future__ import annotations

from native.api.model import Type, enum, struct

TYPES: tuple[Type, ...] = (
    struct("CUuuid", 16, """
        char bytes[16];"""),
    enum("CUctx_flags", """
        CU_CTX_SCHED_AUTO 0, CU_CTX_SCHED_SPIN 1, CU_CTX_SCHED_YIELD 2,
        CU_CTX_SCHED_BLOCKING_SYNC 4, CU_CTX_BLOCKING_SYNC 4, CU_CTX_SCHED_MASK 7,
        CU_CTX_MAP_HOST 8, CU_CTX_LMEM_RESIZE_TO_MAX 16, CU_CTX_COREDUMP_ENABLE 32,
        CU_CTX_USER_COREDUMP_ENABLE 64, CU_CTX_SYNC_MEMOPS 128, CU_CTX_FLAGS_MASK 255"""),
    struct("CUdevprop_v1", 56, """
        int maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3], sharedMemPerBlock, totalConstantMemory, SIMDWidth, memPitch, regsPerBlock, clockRate, textureAlign;"""),
    enum("CUsharedconfig", """
        CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE 0, CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE 1,
        CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE 2"""),
    enum("CUshared_carveout", """
        CU_SHAREDMEM_CARVEOUT_DEFAULT -1, CU_SHAREDMEM_CARVEOUT_MAX_SHARED 100,
        CU_SHAREDMEM_CARVEOUT_MAX_L1 0"""),
    enum("CUlimit", """
        CU_LIMIT_STACK_SIZE 0, CU_LIMIT_PRINTF_FIFO_SIZE 1, CU_LIMIT_MALLOC_HEAP_SIZE 2,
        CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH 3, CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT 4,
        CU_LIMIT_MAX_L2_FETCH_GRANULARITY 5, CU_LIMIT_PERSISTING_L2_CACHE_SIZE 6,
        CU_LIMIT_SHMEM_SIZE 7, CU_LIMIT_CIG_ENABLED 8, CU_LIMIT_CIG_SHMEM_FALLBACK_ENABLED 9,
        CU_LIMIT_MAX 10"""),
    enum("CUdriverProcAddress_flags", """
        CU_GET_PROC_ADDRESS_DEFAULT 0, CU_GET_PROC_ADDRESS_LEGACY_STREAM 1,
        CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM 2"""),
    enum("CUdriverProcAddressQueryResult", """
        CU_GET_PROC_ADDRESS_SUCCESS 0, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND 1,
        CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT 2"""),
    enum("CUexecAffinityType", """
        CU_EXEC_AFFINITY_TYPE_SM_COUNT 0, CU_EXEC_AFFINITY_TYPE_MAX 1"""),
    struct("CUexecAffinitySmCount_v1", 4, """
        unsigned int val;"""),
    struct("CUexecAffinityParam_v1", 8, """
        CUexecAffinityType type; union { CUexecAffinitySmCount smCount; } param;""",
        wire="param=case(type,0:param.smCount)"),
    struct("CUctxCreateParams", 24, """
        CUexecAffinityParam *execAffinityParams; int numExecAffinityParams;
        CUctxCigParam *cigParams;""",
        wire="execAffinityParams=[numExecAffinityParams] cigParams=null"),
    enum("CUdevice_P2PAttribute", """
        CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK 1, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED 2,
        CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED 3,
        CU_DEVICE_P2P_ATTRIBUTE_ACCESS_ACCESS_SUPPORTED 4,
        CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED 4,
        CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED 5"""),
    enum("CUatomicOperation", """
        CU_ATOMIC_OPERATION_INTEGER_ADD 0, CU_ATOMIC_OPERATION_INTEGER_MIN 1,
        CU_ATOMIC_OPERATION_INTEGER_MAX 2, CU_ATOMIC_OPERATION_INTEGER_INCREMENT 3,
        CU_ATOMIC_OPERATION_INTEGER_DECREMENT 4, CU_ATOMIC_OPERATION_AND 5,
        CU_ATOMIC_OPERATION_OR 6, CU_ATOMIC_OPERATION_XOR 7, CU_ATOMIC_OPERATION_EXCHANGE 8,
        CU_ATOMIC_OPERATION_CAS 9, CU_ATOMIC_OPERATION_FLOAT_ADD 10,
        CU_ATOMIC_OPERATION_FLOAT_MIN 11, CU_ATOMIC_OPERATION_FLOAT_MAX 12,
        CU_ATOMIC_OPERATION_MAX 13"""),
    enum("CUatomicOperationCapability", """
        CU_ATOMIC_CAPABILITY_SIGNED 1, CU_ATOMIC_CAPABILITY_UNSIGNED 2,
        CU_ATOMIC_CAPABILITY_REDUCTION 4, CU_ATOMIC_CAPABILITY_SCALAR_32 8,
        CU_ATOMIC_CAPABILITY_SCALAR_64 16, CU_ATOMIC_CAPABILITY_SCALAR_128 32,
        CU_ATOMIC_CAPABILITY_VECTOR_32x4 64"""),
    enum("CUdeviceNumaConfig", """
        CU_DEVICE_NUMA_CONFIG_NONE 0, CU_DEVICE_NUMA_CONFIG_NUMA_NODE 1"""),
    enum("CUcoredumpSettings", """
        CU_COREDUMP_ENABLE_ON_EXCEPTION 1, CU_COREDUMP_TRIGGER_HOST 2,
        CU_COREDUMP_LIGHTWEIGHT 3, CU_COREDUMP_ENABLE_USER_TRIGGER 4, CU_COREDUMP_FILE 5,
        CU_COREDUMP_PIPE 6, CU_COREDUMP_GENERATION_FLAGS 7, CU_COREDUMP_MAX 8"""),
    enum("CUCoredumpGenerationFlags", """
        CU_COREDUMP_DEFAULT_FLAGS 0, CU_COREDUMP_SKIP_NONRELOCATED_ELF_IMAGES 1,
        CU_COREDUMP_SKIP_GLOBAL_MEMORY 2, CU_COREDUMP_SKIP_SHARED_MEMORY 4,
        CU_COREDUMP_SKIP_LOCAL_MEMORY 8, CU_COREDUMP_SKIP_ABORT 16,
        CU_COREDUMP_SKIP_CONSTBANK_MEMORY 32, CU_COREDUMP_LIGHTWEIGHT_FLAGS 47"""),
    enum("CUgreenCtxCreate_flags", """
        CU_GREEN_CTX_DEFAULT_STREAM 1"""),
    enum("CUdevSmResourceSplit_flags", """
        CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING 1,
        CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE 2"""),
    enum("CUdevResourceType", """
        CU_DEV_RESOURCE_TYPE_INVALID 0, CU_DEV_RESOURCE_TYPE_SM 1, CU_DEV_RESOURCE_TYPE_MAX 2"""),
    struct("CUdevSmResource", 12, """
        unsigned int smCount, minSmPartitionSize, smCoscheduledAlignment;"""),
    struct("CUdevResource_v1", 144, """
        CUdevResourceType type; unsigned char _internal_padding[92]; union { CUdevSmResource sm;
        unsigned char _oversize[48]; };"""),
    enum("CUlogLevel", """
        CU_LOG_LEVEL_ERROR 0, CU_LOG_LEVEL_WARNING 1"""),
    enum("CUoutput_mode", """
        CU_OUT_KEY_VALUE_PAIR 0, CU_OUT_CSV 1"""),
)
