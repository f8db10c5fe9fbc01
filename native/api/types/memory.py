# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Memory: flags, copies, virtual memory, pools, pointers."""

from __future__ import annotations

from native.api.model import Type, enum, struct

TYPES: tuple[Type, ...] = (
    enum("CUmemAttach_flags", """
        CU_MEM_ATTACH_GLOBAL 1, CU_MEM_ATTACH_HOST 2, CU_MEM_ATTACH_SINGLE 4"""),
    enum("CUpointer_attribute", """
        CU_POINTER_ATTRIBUTE_CONTEXT 1, CU_POINTER_ATTRIBUTE_MEMORY_TYPE 2,
        CU_POINTER_ATTRIBUTE_DEVICE_POINTER 3, CU_POINTER_ATTRIBUTE_HOST_POINTER 4,
        CU_POINTER_ATTRIBUTE_P2P_TOKENS 5, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS 6,
        CU_POINTER_ATTRIBUTE_BUFFER_ID 7, CU_POINTER_ATTRIBUTE_IS_MANAGED 8,
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL 9,
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE 10,
        CU_POINTER_ATTRIBUTE_RANGE_START_ADDR 11, CU_POINTER_ATTRIBUTE_RANGE_SIZE 12,
        CU_POINTER_ATTRIBUTE_MAPPED 13, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES 14,
        CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE 15,
        CU_POINTER_ATTRIBUTE_ACCESS_FLAGS 16, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE 17,
        CU_POINTER_ATTRIBUTE_MAPPING_SIZE 18, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR 19,
        CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID 20,
        CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE 21"""),
    enum("CUmemorytype", """
        CU_MEMORYTYPE_HOST 1, CU_MEMORYTYPE_DEVICE 2, CU_MEMORYTYPE_ARRAY 3,
        CU_MEMORYTYPE_UNIFIED 4"""),
    enum("CUmem_advise", """
        CU_MEM_ADVISE_SET_READ_MOSTLY 1, CU_MEM_ADVISE_UNSET_READ_MOSTLY 2,
        CU_MEM_ADVISE_SET_PREFERRED_LOCATION 3, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION 4,
        CU_MEM_ADVISE_SET_ACCESSED_BY 5, CU_MEM_ADVISE_UNSET_ACCESSED_BY 6"""),
    enum("CUmem_range_attribute", """
        CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY 1, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION 2,
        CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY 3, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION 4,
        CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE 5,
        CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID 6,
        CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE 7,
        CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID 8"""),
    struct("CUDA_MEMCPY2D_v2", 128, """
        size_t srcXInBytes, srcY; CUmemorytype srcMemoryType; const void *srcHost;
        CUdeviceptr srcDevice; CUarray srcArray; size_t srcPitch, dstXInBytes, dstY;
        CUmemorytype dstMemoryType; void *dstHost; CUdeviceptr dstDevice; CUarray dstArray;
        size_t dstPitch, WidthInBytes, Height;""",
        wire="""
        check srcHost=send[WidthInBytes*Height] dstHost=fetch[WidthInBytes*Height]
        src=case(srcMemoryType,1:srcHost,2:srcDevice,3:srcArray,4:srcDevice)
        dst=case(dstMemoryType,1:dstHost,2:dstDevice,3:dstArray,4:dstDevice)"""),
    struct("CUDA_MEMCPY3D_v2", 200, """
        size_t srcXInBytes, srcY, srcZ, srcLOD; CUmemorytype srcMemoryType; const void *srcHost;
        CUdeviceptr srcDevice; CUarray srcArray; void *reserved0;
        size_t srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD; CUmemorytype dstMemoryType;
        void *dstHost; CUdeviceptr dstDevice; CUarray dstArray; void *reserved1;
        size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;""",
        wire="""
        check reserved0=null reserved1=null
        srcHost=send[WidthInBytes*Height*Depth] dstHost=fetch[WidthInBytes*Height*Depth]
        src=case(srcMemoryType,1:srcHost,2:srcDevice,3:srcArray,4:srcDevice)
        dst=case(dstMemoryType,1:dstHost,2:dstDevice,3:dstArray,4:dstDevice)"""),
    struct("CUDA_MEMCPY3D_PEER_v1", 200, """
        size_t srcXInBytes, srcY, srcZ, srcLOD; CUmemorytype srcMemoryType; const void *srcHost;
        CUdeviceptr srcDevice; CUarray srcArray; CUcontext srcContext;
        size_t srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD; CUmemorytype dstMemoryType;
        void *dstHost; CUdeviceptr dstDevice; CUarray dstArray; CUcontext dstContext;
        size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;""",
        wire="""
        check srcHost=send[WidthInBytes*Height*Depth] dstHost=fetch[WidthInBytes*Height*Depth]
        src=case(srcMemoryType,1:srcHost,2:srcDevice+srcContext,3:srcArray+srcContext,
        4:srcDevice)
        dst=case(dstMemoryType,1:dstHost,2:dstDevice+dstContext,3:dstArray+dstContext,
        4:dstDevice)"""),
    enum("CUDA_POINTER_ATTRIBUTE_ACCESS_FLAGS", """
        CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE 0, CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ 1,
        CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE 3"""),
    enum("CUmemAllocationHandleType", """
        CU_MEM_HANDLE_TYPE_NONE 0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR 1,
        CU_MEM_HANDLE_TYPE_WIN32 2, CU_MEM_HANDLE_TYPE_WIN32_KMT 4, CU_MEM_HANDLE_TYPE_FABRIC 8,
        CU_MEM_HANDLE_TYPE_MAX 0x7fffffff"""),
    enum("CUmemAccess_flags", """
        CU_MEM_ACCESS_FLAGS_PROT_NONE 0, CU_MEM_ACCESS_FLAGS_PROT_READ 1,
        CU_MEM_ACCESS_FLAGS_PROT_READWRITE 3, CU_MEM_ACCESS_FLAGS_PROT_MAX 0x7fffffff"""),
    enum("CUmemLocationType", """
        CU_MEM_LOCATION_TYPE_INVALID 0, CU_MEM_LOCATION_TYPE_NONE 0,
        CU_MEM_LOCATION_TYPE_DEVICE 1, CU_MEM_LOCATION_TYPE_HOST 2,
        CU_MEM_LOCATION_TYPE_HOST_NUMA 3, CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT 4,
        CU_MEM_LOCATION_TYPE_MAX 0x7fffffff"""),
    enum("CUmemAllocationType", """
        CU_MEM_ALLOCATION_TYPE_INVALID 0, CU_MEM_ALLOCATION_TYPE_PINNED 1,
        CU_MEM_ALLOCATION_TYPE_MANAGED 2, CU_MEM_ALLOCATION_TYPE_MAX 0x7fffffff"""),
    enum("CUmemAllocationGranularity_flags", """
        CU_MEM_ALLOC_GRANULARITY_MINIMUM 0, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED 1"""),
    enum("CUmemRangeHandleType", """
        CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD 1, CU_MEM_RANGE_HANDLE_TYPE_MAX 0x7fffffff"""),
    enum("CUmemRangeFlags", """
        CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE 1"""),
    enum("CUmemOperationType", """
        CU_MEM_OPERATION_TYPE_MAP 1, CU_MEM_OPERATION_TYPE_UNMAP 2"""),
    enum("CUmemHandleType", """
        CU_MEM_HANDLE_TYPE_GENERIC 0"""),
    struct("CUmemLocation_v1", 8, """
        CUmemLocationType type; int id;"""),
    enum("CUmemAllocationCompType", """
        CU_MEM_ALLOCATION_COMP_NONE 0, CU_MEM_ALLOCATION_COMP_GENERIC 1"""),
    struct("CUmemAllocationProp_v1", 32, """
        CUmemAllocationType type; CUmemAllocationHandleType requestedHandleTypes;
        CUmemLocation location; void *win32HandleMetaData;
        struct { unsigned char compressionType, gpuDirectRDMACapable; unsigned short usage;
        unsigned char reserved[4]; } allocFlags;""",
        wire="win32HandleMetaData=null"),
    enum("CUmulticastGranularity_flags", """
        CU_MULTICAST_GRANULARITY_MINIMUM 0, CU_MULTICAST_GRANULARITY_RECOMMENDED 1"""),
    struct("CUmulticastObjectProp_v1", 32, """
        unsigned int numDevices; size_t size; unsigned long long handleTypes, flags;"""),
    struct("CUmemAccessDesc_v1", 12, """
        CUmemLocation location; CUmemAccess_flags flags;"""),
    enum("CUmemPool_attribute", """
        CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES 1,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC 2,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES 3,
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD 4, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT 5,
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH 6, CU_MEMPOOL_ATTR_USED_MEM_CURRENT 7,
        CU_MEMPOOL_ATTR_USED_MEM_HIGH 8"""),
    struct("CUmemPoolProps_v1", 88, """
        CUmemAllocationType allocType; CUmemAllocationHandleType handleTypes;
        CUmemLocation location; void *win32SecurityAttributes; size_t maxSize;
        unsigned short usage; unsigned char reserved[54];""",
        wire="win32SecurityAttributes=null"),
    struct("CUmemPoolPtrExportData_v1", 64, """
        unsigned char reserved[64];"""),
    enum("CUmemcpyFlags", """
        CU_MEMCPY_FLAG_DEFAULT 0, CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE 1"""),
    enum("CUmemcpySrcAccessOrder", """
        CU_MEMCPY_SRC_ACCESS_ORDER_INVALID 0, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM 1,
        CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL 2, CU_MEMCPY_SRC_ACCESS_ORDER_ANY 3,
        CU_MEMCPY_SRC_ACCESS_ORDER_MAX 0x7fffffff"""),
    struct("CUmemcpyAttributes_v1", 24, """
        CUmemcpySrcAccessOrder srcAccessOrder; CUmemLocation srcLocHint, dstLocHint;
        unsigned int flags;"""),
    enum("CUmemcpy3DOperandType", """
        CU_MEMCPY_OPERAND_TYPE_POINTER 1, CU_MEMCPY_OPERAND_TYPE_ARRAY 2,
        CU_MEMCPY_OPERAND_TYPE_MAX 0x7fffffff"""),
    struct("CUmemcpy3DOperand_v1", 40, """
        CUmemcpy3DOperandType type; union { struct { CUdeviceptr ptr;
        size_t rowLength, layerHeight; CUmemLocation locHint; } ptr; struct { CUarray array;
        CUoffset3D offset; } array; } op;"""),
    struct("CUDA_MEMCPY3D_BATCH_OP_v1", 112, """
        CUmemcpy3DOperand src, dst; CUextent3D extent; CUmemcpySrcAccessOrder srcAccessOrder;
        unsigned int flags;"""),
    enum("CUmemDecompressAlgorithm", """
        CU_MEM_DECOMPRESS_UNSUPPORTED 0, CU_MEM_DECOMPRESS_ALGORITHM_DEFLATE 1,
        CU_MEM_DECOMPRESS_ALGORITHM_SNAPPY 2, CU_MEM_DECOMPRESS_ALGORITHM_LZ4 4"""),
    struct("CUmemDecompressParams", 64, """
        size_t srcNumBytes, dstNumBytes; cuuint32_t *dstActBytes; const void *src; void *dst;
        CUmemDecompressAlgorithm algo; unsigned char padding[20];"""),
    struct("CUDA_MEMCPY2D_v1", 96, """
        unsigned int srcXInBytes, srcY; CUmemorytype srcMemoryType; const void *srcHost;
        CUdeviceptr_v1 srcDevice; CUarray srcArray; unsigned int srcPitch, dstXInBytes, dstY;
        CUmemorytype dstMemoryType; void *dstHost; CUdeviceptr_v1 dstDevice; CUarray dstArray;
        unsigned int dstPitch, WidthInBytes, Height;"""),
    struct("CUDA_MEMCPY3D_v1", 144, """
        unsigned int srcXInBytes, srcY, srcZ, srcLOD; CUmemorytype srcMemoryType;
        const void *srcHost; CUdeviceptr_v1 srcDevice; CUarray srcArray; void *reserved0;
        unsigned int srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD;
        CUmemorytype dstMemoryType; void *dstHost; CUdeviceptr_v1 dstDevice; CUarray dstArray;
        void *reserved1; unsigned int dstPitch, dstHeight, WidthInBytes, Height, Depth;"""),
)
