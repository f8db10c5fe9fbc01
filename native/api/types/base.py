# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Handles, plain aliases and callbacks."""

from __future__ import annotations

from native.api.model import Type, aliases, callback, handles

TYPES: tuple[Type, ...] = (
    *handles("""
        CUcontext CUctx_st
        CUmodule CUmod_st
        CUfunction CUfunc_st
        CUlibrary CUlib_st
        CUkernel CUkern_st
        CUarray CUarray_st
        CUmipmappedArray CUmipmappedArray_st
        CUtexref CUtexref_st
        CUsurfref CUsurfref_st
        CUevent CUevent_st
        CUstream CUstream_st
        CUgraphicsResource CUgraphicsResource_st
        CUexternalMemory CUextMemory_st
        CUexternalSemaphore CUextSemaphore_st
        CUgraph CUgraph_st
        CUgraphNode CUgraphNode_st
        CUgraphExec CUgraphExec_st
        CUmemoryPool CUmemPoolHandle_st
        CUuserObject CUuserObject_st
        CUgraphDeviceNode CUgraphDeviceUpdatableNode_st
        CUasyncCallbackHandle CUasyncCallbackEntry_st
        CUgreenCtx CUgreenCtx_st
        CUlinkState CUlinkState_st
        CUdevResourceDesc CUdevResourceDesc_st
        CUlogsCallbackHandle CUlogsCallbackEntry_st
        CUeglStreamConnection CUeglStreamConnection_st"""),
    *aliases("""
        cuuint32_t uint32_t
        cuuint64_t uint64_t
        CUdeviceptr_v2 unsigned long long
        CUdeviceptr CUdeviceptr_v2
        CUdevice_v1 int
        CUdevice CUdevice_v1
        CUtexObject_v1 unsigned long long
        CUtexObject CUtexObject_v1
        CUsurfObject_v1 unsigned long long
        CUsurfObject CUsurfObject_v1
        CUgraphConditionalHandle cuuint64_t
        CUmemFabricHandle CUmemFabricHandle_v1
        CUipcEventHandle CUipcEventHandle_v1
        CUipcMemHandle CUipcMemHandle_v1
        CUstreamBatchMemOpParams CUstreamBatchMemOpParams_v1
        CUDA_BATCH_MEM_OP_NODE_PARAMS CUDA_BATCH_MEM_OP_NODE_PARAMS_v1
        CUdevprop CUdevprop_v1
        CUaccessPolicyWindow CUaccessPolicyWindow_v1
        CUDA_KERNEL_NODE_PARAMS CUDA_KERNEL_NODE_PARAMS_v2
        CUDA_MEMSET_NODE_PARAMS CUDA_MEMSET_NODE_PARAMS_v1
        CUDA_HOST_NODE_PARAMS CUDA_HOST_NODE_PARAMS_v1
        CUkernelNodeAttrID CUlaunchAttributeID
        CUkernelNodeAttrValue_v1 CUlaunchAttributeValue
        CUkernelNodeAttrValue CUkernelNodeAttrValue_v1
        CUstreamAttrID CUlaunchAttributeID
        CUstreamAttrValue_v1 CUlaunchAttributeValue
        CUstreamAttrValue CUstreamAttrValue_v1
        CUexecAffinitySmCount CUexecAffinitySmCount_v1
        CUexecAffinityParam CUexecAffinityParam_v1
        CUDA_MEMCPY2D CUDA_MEMCPY2D_v2
        CUDA_MEMCPY3D CUDA_MEMCPY3D_v2
        CUDA_MEMCPY3D_PEER CUDA_MEMCPY3D_PEER_v1
        CUDA_ARRAY_DESCRIPTOR CUDA_ARRAY_DESCRIPTOR_v2
        CUDA_ARRAY3D_DESCRIPTOR CUDA_ARRAY3D_DESCRIPTOR_v2
        CUDA_ARRAY_SPARSE_PROPERTIES CUDA_ARRAY_SPARSE_PROPERTIES_v1
        CUDA_ARRAY_MEMORY_REQUIREMENTS CUDA_ARRAY_MEMORY_REQUIREMENTS_v1
        CUDA_RESOURCE_DESC CUDA_RESOURCE_DESC_v1
        CUDA_TEXTURE_DESC CUDA_TEXTURE_DESC_v1
        CUDA_RESOURCE_VIEW_DESC CUDA_RESOURCE_VIEW_DESC_v1
        CUDA_POINTER_ATTRIBUTE_P2P_TOKENS CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1
        CUDA_LAUNCH_PARAMS CUDA_LAUNCH_PARAMS_v1
        CUDA_EXTERNAL_MEMORY_HANDLE_DESC CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1
        CUDA_EXTERNAL_MEMORY_BUFFER_DESC CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1
        CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1
        CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC_v1
        CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS_v1
        CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS_v1
        CUDA_EXT_SEM_SIGNAL_NODE_PARAMS CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v1
        CUDA_EXT_SEM_WAIT_NODE_PARAMS CUDA_EXT_SEM_WAIT_NODE_PARAMS_v1
        CUmemGenericAllocationHandle_v1 unsigned long long
        CUmemGenericAllocationHandle CUmemGenericAllocationHandle_v1
        CUarrayMapInfo CUarrayMapInfo_v1
        CUmemLocation CUmemLocation_v1
        CUmemAllocationProp CUmemAllocationProp_v1
        CUmulticastObjectProp CUmulticastObjectProp_v1
        CUmemAccessDesc CUmemAccessDesc_v1
        CUgraphExecUpdateResultInfo CUgraphExecUpdateResultInfo_v1
        CUmemPoolProps CUmemPoolProps_v1
        CUmemPoolPtrExportData CUmemPoolPtrExportData_v1
        CUmemcpyAttributes CUmemcpyAttributes_v1
        CUoffset3D CUoffset3D_v1
        CUextent3D CUextent3D_v1
        CUmemcpy3DOperand CUmemcpy3DOperand_v1
        CUDA_MEMCPY3D_BATCH_OP CUDA_MEMCPY3D_BATCH_OP_v1
        CUDA_MEM_ALLOC_NODE_PARAMS CUDA_MEM_ALLOC_NODE_PARAMS_v1
        CUdevResource CUdevResource_v1
        CUlogIterator unsigned int
        CUdeviceptr_v1 unsigned int
        GLuint unsigned int
        GLenum unsigned int
        EGLint int
        EGLImageKHR void *
        EGLStreamKHR void *
        EGLSyncKHR void *
        CUeglFrame CUeglFrame_v1
        VdpDevice unsigned int
        VdpVideoSurface unsigned int
        VdpOutputSurface unsigned int
        VdpGetProcAddress void"""),
    callback("CUasyncCallback", "void", "CUasyncNotificationInfo *info, void *userData, CUasyncCallbackHandle callback"),
    callback("CUhostFn", "void", "void *userData"),
    callback("CUstreamCallback", "void", "CUstream hStream, CUresult status, void *userData"),
    callback("CUoccupancyB2DSize", "size_t", "int blockSize"),
    callback("CUlogsCallback", "void", "void *data, CUlogLevel logLevel, char *message, size_t length"),
)
