# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Graphs and their node parameters."""

from __future__ import annotations

from native.api.model import Type, enum, struct

TYPES: tuple[Type, ...] = (
    struct("CUDA_BATCH_MEM_OP_NODE_PARAMS_v1", 32, """
        CUcontext ctx; unsigned int count; CUstreamBatchMemOpParams *paramArray;
        unsigned int flags;""",
        wire="paramArray=[count]"),
    struct("CUDA_BATCH_MEM_OP_NODE_PARAMS_v2", 32, """
        CUcontext ctx; unsigned int count; CUstreamBatchMemOpParams *paramArray;
        unsigned int flags;""",
        wire="paramArray=[count]"),
    struct("CUDA_KERNEL_NODE_PARAMS_v1", 56, """
        CUfunction func;
        unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
        void **kernelParams; void **extra;""",
        wire="kernelParams=packed extra=none"),
    struct("CUDA_KERNEL_NODE_PARAMS_v2", 72, """
        CUfunction func;
        unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
        void **kernelParams; void **extra; CUkernel kern; CUcontext ctx;""",
        wire="kernelParams=packed extra=none"),
    struct("CUDA_KERNEL_NODE_PARAMS_v3", 72, """
        CUfunction func;
        unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
        void **kernelParams; void **extra; CUkernel kern; CUcontext ctx;""",
        wire="kernelParams=packed extra=none"),
    struct("CUDA_MEMSET_NODE_PARAMS_v1", 40, """
        CUdeviceptr dst; size_t pitch; unsigned int value, elementSize; size_t width, height;"""),
    struct("CUDA_MEMSET_NODE_PARAMS_v2", 48, """
        CUdeviceptr dst; size_t pitch; unsigned int value, elementSize; size_t width, height;
        CUcontext ctx;"""),
    struct("CUDA_HOST_NODE_PARAMS_v1", 16, """
        CUhostFn fn; void *userData;""",
        wire="fn=ticket userData=none"),
    struct("CUDA_HOST_NODE_PARAMS_v2", 16, """
        CUhostFn fn; void *userData;""",
        wire="fn=ticket userData=none"),
    enum("CUgraphConditionalNodeType", """
        CU_GRAPH_COND_TYPE_IF 0, CU_GRAPH_COND_TYPE_WHILE 1, CU_GRAPH_COND_TYPE_SWITCH 2"""),
    struct("CUDA_CONDITIONAL_NODE_PARAMS", 32, """
        CUgraphConditionalHandle handle; CUgraphConditionalNodeType type; unsigned int size;
        CUgraph *phGraph_out; CUcontext ctx;""",
        wire="phGraph_out=lent[size]"),
    enum("CUgraphNodeType", """
        CU_GRAPH_NODE_TYPE_KERNEL 0, CU_GRAPH_NODE_TYPE_MEMCPY 1, CU_GRAPH_NODE_TYPE_MEMSET 2,
        CU_GRAPH_NODE_TYPE_HOST 3, CU_GRAPH_NODE_TYPE_GRAPH 4, CU_GRAPH_NODE_TYPE_EMPTY 5,
        CU_GRAPH_NODE_TYPE_WAIT_EVENT 6, CU_GRAPH_NODE_TYPE_EVENT_RECORD 7,
        CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL 8, CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT 9,
        CU_GRAPH_NODE_TYPE_MEM_ALLOC 10, CU_GRAPH_NODE_TYPE_MEM_FREE 11,
        CU_GRAPH_NODE_TYPE_BATCH_MEM_OP 12, CU_GRAPH_NODE_TYPE_CONDITIONAL 13"""),
    enum("CUgraphDependencyType", """
        CU_GRAPH_DEPENDENCY_TYPE_DEFAULT 0, CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC 1"""),
    struct("CUgraphEdgeData", 8, """
        unsigned char from_port, to_port, type, reserved[5];"""),
    enum("CUgraphInstantiateResult", """
        CUDA_GRAPH_INSTANTIATE_SUCCESS 0, CUDA_GRAPH_INSTANTIATE_ERROR 1,
        CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE 2,
        CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED 3,
        CUDA_GRAPH_INSTANTIATE_MULTIPLE_CTXS_NOT_SUPPORTED 4,
        CUDA_GRAPH_INSTANTIATE_CONDITIONAL_HANDLE_UNUSED 5"""),
    struct("CUDA_GRAPH_INSTANTIATE_PARAMS", 32, """
        cuuint64_t flags; CUstream hUploadStream; CUgraphNode hErrNode_out;
        CUgraphInstantiateResult result_out;""",
        wire="hErrNode_out=out result_out=out"),
    struct("CUDA_MEMCPY_NODE_PARAMS", 216, """
        int flags, reserved; CUcontext copyCtx; CUDA_MEMCPY3D copyParams;"""),
    enum("CUgraphExecUpdateResult", """
        CU_GRAPH_EXEC_UPDATE_SUCCESS 0, CU_GRAPH_EXEC_UPDATE_ERROR 1,
        CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED 2,
        CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED 3,
        CU_GRAPH_EXEC_UPDATE_ERROR_FUNCTION_CHANGED 4,
        CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED 5,
        CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED 6,
        CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE 7,
        CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED 8"""),
    struct("CUgraphExecUpdateResultInfo_v1", 24, """
        CUgraphExecUpdateResult result; CUgraphNode errorNode, errorFromNode;"""),
    struct("CUDA_MEM_ALLOC_NODE_PARAMS_v1", 120, """
        CUmemPoolProps poolProps; const CUmemAccessDesc *accessDescs;
        size_t accessDescCount, bytesize; CUdeviceptr dptr;""",
        wire="accessDescs=[accessDescCount] dptr=out"),
    struct("CUDA_MEM_ALLOC_NODE_PARAMS_v2", 120, """
        CUmemPoolProps poolProps; const CUmemAccessDesc *accessDescs;
        size_t accessDescCount, bytesize; CUdeviceptr dptr;""",
        wire="accessDescs=[accessDescCount] dptr=out"),
    struct("CUDA_MEM_FREE_NODE_PARAMS", 8, """
        CUdeviceptr dptr;"""),
    enum("CUgraphMem_attribute", """
        CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT 0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH 1,
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT 2, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH 3"""),
    enum("CUgraphChildGraphNodeOwnership", """
        CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE 0, CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE 1"""),
    struct("CUDA_CHILD_GRAPH_NODE_PARAMS", 16, """
        CUgraph graph; CUgraphChildGraphNodeOwnership ownership;"""),
    struct("CUDA_EVENT_RECORD_NODE_PARAMS", 8, """
        CUevent event;"""),
    struct("CUDA_EVENT_WAIT_NODE_PARAMS", 8, """
        CUevent event;"""),
    struct("CUgraphNodeParams", 256, """
        CUgraphNodeType type; int reserved0[3]; union { long long reserved1[29];
        CUDA_KERNEL_NODE_PARAMS_v3 kernel; CUDA_MEMCPY_NODE_PARAMS memcpy;
        CUDA_MEMSET_NODE_PARAMS_v2 memset; CUDA_HOST_NODE_PARAMS_v2 host;
        CUDA_CHILD_GRAPH_NODE_PARAMS graph; CUDA_EVENT_WAIT_NODE_PARAMS eventWait;
        CUDA_EVENT_RECORD_NODE_PARAMS eventRecord;
        CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2 extSemSignal;
        CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2 extSemWait; CUDA_MEM_ALLOC_NODE_PARAMS_v2 alloc;
        CUDA_MEM_FREE_NODE_PARAMS free; CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 memOp;
        CUDA_CONDITIONAL_NODE_PARAMS conditional; }; long long reserved2;""",
        wire="""
        union=case(type,0:kernel,1:memcpy,2:memset,3:host,4:graph,5:-,6:eventWait,
        7:eventRecord,10:alloc,11:free,12:memOp,13:conditional)"""),
    enum("CUgraphDebugDot_flags", """
        CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE 1, CU_GRAPH_DEBUG_DOT_FLAGS_RUNTIME_TYPES 2,
        CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS 4,
        CU_GRAPH_DEBUG_DOT_FLAGS_MEMCPY_NODE_PARAMS 8,
        CU_GRAPH_DEBUG_DOT_FLAGS_MEMSET_NODE_PARAMS 16,
        CU_GRAPH_DEBUG_DOT_FLAGS_HOST_NODE_PARAMS 32,
        CU_GRAPH_DEBUG_DOT_FLAGS_EVENT_NODE_PARAMS 64,
        CU_GRAPH_DEBUG_DOT_FLAGS_EXT_SEMAS_SIGNAL_NODE_PARAMS 128,
        CU_GRAPH_DEBUG_DOT_FLAGS_EXT_SEMAS_WAIT_NODE_PARAMS 256,
        CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_ATTRIBUTES 512,
        CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES 1024,
        CU_GRAPH_DEBUG_DOT_FLAGS_MEM_ALLOC_NODE_PARAMS 2048,
        CU_GRAPH_DEBUG_DOT_FLAGS_MEM_FREE_NODE_PARAMS 0x1000,
        CU_GRAPH_DEBUG_DOT_FLAGS_BATCH_MEM_OP_NODE_PARAMS 0x2000,
        CU_GRAPH_DEBUG_DOT_FLAGS_EXTRA_TOPO_INFO 0x4000,
        CU_GRAPH_DEBUG_DOT_FLAGS_CONDITIONAL_NODE_PARAMS 0x8000"""),
    enum("CUuserObject_flags", """
        CU_USER_OBJECT_NO_DESTRUCTOR_SYNC 1"""),
    enum("CUuserObjectRetain_flags", """
        CU_GRAPH_USER_OBJECT_MOVE 1"""),
    enum("CUgraphInstantiate_flags", """
        CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH 1, CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD 2,
        CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH 4,
        CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY 8"""),
)
