# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Graphs and user objects."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuGraphCreate", Cls.OTHER, Gate.NONE, """
        cuGraphCreate 10000 (CUgraph *phGraph, unsigned int flags)""",
        remote="async phGraph=new"),
    fn("cuGraphAddKernelNode", Cls.OTHER, Gate.KERNEL, """
        cuGraphAddKernelNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
        cuGraphAddKernelNode_v2 12000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_KERNEL_NODE_PARAMS *nodeParams)""",
        remote="async phGraphNode=new"),
    fn("cuGraphKernelNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphKernelNodeGetParams 10000 (CUgraphNode hNode,
            CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
        cuGraphKernelNodeGetParams_v2 12000 (CUgraphNode hNode,
            CUDA_KERNEL_NODE_PARAMS *nodeParams)""",
        remote="sync"),
    fn("cuGraphKernelNodeSetParams", Cls.OTHER, Gate.KERNEL, """
        cuGraphKernelNodeSetParams 10000 (CUgraphNode hNode,
            const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
        cuGraphKernelNodeSetParams_v2 12000 (CUgraphNode hNode,
            const CUDA_KERNEL_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphAddMemcpyNode", Cls.OTHER, Gate.TOUCH, """
        cuGraphAddMemcpyNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_MEMCPY3D *copyParams, CUcontext ctx)""",
        remote="async resident phGraphNode=new"),
    fn("cuGraphMemcpyNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphMemcpyNodeGetParams 10000 (CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)""",
        remote="sync resident"),
    fn("cuGraphMemcpyNodeSetParams", Cls.OTHER, Gate.TOUCH, """
        cuGraphMemcpyNodeSetParams 10000 (CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)""",
        remote="async resident"),
    fn("cuGraphAddMemsetNode", Cls.OTHER, Gate.TOUCH, """
        cuGraphAddMemsetNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)""",
        remote="async phGraphNode=new"),
    fn("cuGraphMemsetNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphMemsetNodeGetParams 10000 (CUgraphNode hNode,
            CUDA_MEMSET_NODE_PARAMS *nodeParams)""",
        remote="sync"),
    fn("cuGraphMemsetNodeSetParams", Cls.OTHER, Gate.TOUCH, """
        cuGraphMemsetNodeSetParams 10000 (CUgraphNode hNode,
            const CUDA_MEMSET_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphAddHostNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddHostNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_HOST_NODE_PARAMS *nodeParams)""",
        remote="async phGraphNode=new"),
    fn("cuGraphHostNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphHostNodeGetParams 10000 (CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)""",
        remote="sync"),
    fn("cuGraphHostNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphHostNodeSetParams 10000 (CUgraphNode hNode,
            const CUDA_HOST_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphAddChildGraphNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddChildGraphNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies, CUgraph childGraph)""",
        remote="async phGraphNode=new"),
    fn("cuGraphChildGraphNodeGetGraph", Cls.QUERY, Gate.NONE, """
        cuGraphChildGraphNodeGetGraph 10000 (CUgraphNode hNode, CUgraph *phGraph)""",
        remote="sync phGraph=ref"),
    fn("cuGraphAddEmptyNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddEmptyNode 10000 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies)""",
        remote="async phGraphNode=new"),
    fn("cuGraphAddEventRecordNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddEventRecordNode 11010 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies, CUevent event)""",
        remote="async phGraphNode=new"),
    fn("cuGraphEventRecordNodeGetEvent", Cls.QUERY, Gate.NONE, """
        cuGraphEventRecordNodeGetEvent 11010 (CUgraphNode hNode, CUevent *event_out)""",
        remote="sync event_out=ref"),
    fn("cuGraphEventRecordNodeSetEvent", Cls.OTHER, Gate.NONE, """
        cuGraphEventRecordNodeSetEvent 11010 (CUgraphNode hNode, CUevent event)""",
        remote="async"),
    fn("cuGraphAddEventWaitNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddEventWaitNode 11010 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies, CUevent event)""",
        remote="async phGraphNode=new"),
    fn("cuGraphEventWaitNodeGetEvent", Cls.QUERY, Gate.NONE, """
        cuGraphEventWaitNodeGetEvent 11010 (CUgraphNode hNode, CUevent *event_out)""",
        remote="sync event_out=ref"),
    fn("cuGraphEventWaitNodeSetEvent", Cls.OTHER, Gate.NONE, """
        cuGraphEventWaitNodeSetEvent 11010 (CUgraphNode hNode, CUevent event)""",
        remote="async"),
    fn("cuGraphAddExternalSemaphoresSignalNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddExternalSemaphoresSignalNode 11020 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphExternalSemaphoresSignalNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphExternalSemaphoresSignalNodeGetParams 11020 (CUgraphNode hNode,
            CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *params_out)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphExternalSemaphoresSignalNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExternalSemaphoresSignalNodeSetParams 11020 (CUgraphNode hNode,
            const CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphAddExternalSemaphoresWaitNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddExternalSemaphoresWaitNode 11020 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_EXT_SEM_WAIT_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphExternalSemaphoresWaitNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphExternalSemaphoresWaitNodeGetParams 11020 (CUgraphNode hNode,
            CUDA_EXT_SEM_WAIT_NODE_PARAMS *params_out)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphExternalSemaphoresWaitNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExternalSemaphoresWaitNodeSetParams 11020 (CUgraphNode hNode,
            const CUDA_EXT_SEM_WAIT_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphAddBatchMemOpNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddBatchMemOpNode 11070 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)""",
        remote="async phGraphNode=new"),
    fn("cuGraphBatchMemOpNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphBatchMemOpNodeGetParams 11070 (CUgraphNode hNode,
            CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)""",
        remote="sync"),
    fn("cuGraphBatchMemOpNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphBatchMemOpNodeSetParams 11070 (CUgraphNode hNode,
            const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphExecBatchMemOpNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExecBatchMemOpNodeSetParams 11070 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphAddMemAllocNode", Cls.ALLOC, Gate.TRACK, """
        cuGraphAddMemAllocNode 11040 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)""",
        remote="sync phGraphNode=new nodeParams=inout",
        charge=Charge.GRAPH),
    fn("cuGraphMemAllocNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphMemAllocNodeGetParams 11040 (CUgraphNode hNode,
            CUDA_MEM_ALLOC_NODE_PARAMS *params_out)""",
        remote="sync"),
    fn("cuGraphAddMemFreeNode", Cls.OTHER, Gate.NONE, """
        cuGraphAddMemFreeNode 11040 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies, CUdeviceptr dptr)""",
        remote="async phGraphNode=new"),
    fn("cuGraphMemFreeNodeGetParams", Cls.QUERY, Gate.NONE, """
        cuGraphMemFreeNodeGetParams 11040 (CUgraphNode hNode, CUdeviceptr *dptr_out)""",
        remote="sync"),
    fn("cuGraphClone", Cls.ALLOC, Gate.NONE, """
        cuGraphClone 10000 (CUgraph *phGraphClone, CUgraph originalGraph)""",
        remote="async phGraphClone=new",
        charge=Charge.NOTHING,
        why="a description in host memory"),
    fn("cuGraphNodeFindInClone", Cls.QUERY, Gate.NONE, """
        cuGraphNodeFindInClone 10000 (CUgraphNode *phNode, CUgraphNode hOriginalNode,
            CUgraph hClonedGraph)""",
        remote="sync phNode=ref"),
    fn("cuGraphNodeGetType", Cls.QUERY, Gate.NONE, """
        cuGraphNodeGetType 10000 (CUgraphNode hNode, CUgraphNodeType *type)""",
        remote="sync"),
    fn("cuGraphGetNodes", Cls.QUERY, Gate.NONE, """
        cuGraphGetNodes 10000 (CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)""",
        remote="sync nodes=ref[*numNodes] numNodes=inout"),
    fn("cuGraphGetRootNodes", Cls.QUERY, Gate.NONE, """
        cuGraphGetRootNodes 10000 (CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)""",
        remote="sync rootNodes=ref[*numRootNodes] numRootNodes=inout"),
    fn("cuGraphGetEdges", Cls.QUERY, Gate.NONE, """
        cuGraphGetEdges 10000 (CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
            size_t *numEdges)
        cuGraphGetEdges_v2 12030 (CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
            CUgraphEdgeData *edgeData, size_t *numEdges)""",
        remote="sync from=ref[*numEdges] to=ref[*numEdges] edgeData=out[*numEdges] numEdges=inout"),
    fn("cuGraphNodeGetDependencies", Cls.QUERY, Gate.NONE, """
        cuGraphNodeGetDependencies 10000 (CUgraphNode hNode, CUgraphNode *dependencies,
            size_t *numDependencies)
        cuGraphNodeGetDependencies_v2 12030 (CUgraphNode hNode, CUgraphNode *dependencies,
            CUgraphEdgeData *edgeData, size_t *numDependencies)""",
        remote="sync dependencies=ref[*numDependencies] edgeData=out[*numDependencies] "
            "numDependencies=inout"),
    fn("cuGraphNodeGetDependentNodes", Cls.QUERY, Gate.NONE, """
        cuGraphNodeGetDependentNodes 10000 (CUgraphNode hNode, CUgraphNode *dependentNodes,
            size_t *numDependentNodes)
        cuGraphNodeGetDependentNodes_v2 12030 (CUgraphNode hNode, CUgraphNode *dependentNodes,
            CUgraphEdgeData *edgeData, size_t *numDependentNodes)""",
        remote="sync dependentNodes=ref[*numDependentNodes] edgeData=out[*numDependentNodes] "
            "numDependentNodes=inout"),
    fn("cuGraphAddDependencies", Cls.OTHER, Gate.NONE, """
        cuGraphAddDependencies 10000 (CUgraph hGraph, const CUgraphNode *from,
            const CUgraphNode *to, size_t numDependencies)
        cuGraphAddDependencies_v2 12030 (CUgraph hGraph, const CUgraphNode *from,
            const CUgraphNode *to, const CUgraphEdgeData *edgeData, size_t numDependencies)""",
        remote="async from=in[numDependencies] to=in[numDependencies] edgeData=in[numDependencies]"),
    fn("cuGraphRemoveDependencies", Cls.OTHER, Gate.NONE, """
        cuGraphRemoveDependencies 10000 (CUgraph hGraph, const CUgraphNode *from,
            const CUgraphNode *to, size_t numDependencies)
        cuGraphRemoveDependencies_v2 12030 (CUgraph hGraph, const CUgraphNode *from,
            const CUgraphNode *to, const CUgraphEdgeData *edgeData, size_t numDependencies)""",
        remote="async from=in[numDependencies] to=in[numDependencies] edgeData=in[numDependencies]"),
    fn("cuGraphDestroyNode", Cls.FREE, Gate.NONE, """
        cuGraphDestroyNode 10000 (CUgraphNode hNode)""",
        remote="async hNode=del"),
    fn("cuGraphInstantiateWithFlags", Cls.ALLOC, Gate.TRACK, """
        cuGraphInstantiateWithFlags 11040 (CUgraphExec *phGraphExec, CUgraph hGraph,
            unsigned long long flags)""",
        remote="sync phGraphExec=new",
        charge=Charge.GRAPH),
    fn("cuGraphInstantiateWithParams", Cls.ALLOC, Gate.TRACK, """
        cuGraphInstantiateWithParams 12000 ptsz=12000 (CUgraphExec *phGraphExec, CUgraph hGraph,
            CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)""",
        remote="sync always phGraphExec=new instantiateParams=inout",
        charge=Charge.GRAPH),
    fn("cuGraphExecGetFlags", Cls.QUERY, Gate.NONE, """
        cuGraphExecGetFlags 12000 (CUgraphExec hGraphExec, cuuint64_t *flags)""",
        remote="cached"),
    fn("cuGraphExecKernelNodeSetParams", Cls.OTHER, Gate.KERNEL, """
        cuGraphExecKernelNodeSetParams 10010 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
        cuGraphExecKernelNodeSetParams_v2 12000 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_KERNEL_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphExecMemcpyNodeSetParams", Cls.OTHER, Gate.TOUCH, """
        cuGraphExecMemcpyNodeSetParams 10020 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_MEMCPY3D *copyParams, CUcontext ctx)""",
        remote="async resident"),
    fn("cuGraphExecMemsetNodeSetParams", Cls.OTHER, Gate.TOUCH, """
        cuGraphExecMemsetNodeSetParams 10020 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)""",
        remote="async"),
    fn("cuGraphExecHostNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExecHostNodeSetParams 10020 (CUgraphExec hGraphExec, CUgraphNode hNode,
            const CUDA_HOST_NODE_PARAMS *nodeParams)""",
        remote="async"),
    fn("cuGraphExecChildGraphNodeSetParams", Cls.OTHER, Gate.KERNEL, """
        cuGraphExecChildGraphNodeSetParams 11010 (CUgraphExec hGraphExec, CUgraphNode hNode,
            CUgraph childGraph)""",
        remote="async"),
    fn("cuGraphExecEventRecordNodeSetEvent", Cls.OTHER, Gate.NONE, """
        cuGraphExecEventRecordNodeSetEvent 11010 (CUgraphExec hGraphExec, CUgraphNode hNode,
            CUevent event)""",
        remote="async"),
    fn("cuGraphExecEventWaitNodeSetEvent", Cls.OTHER, Gate.NONE, """
        cuGraphExecEventWaitNodeSetEvent 11010 (CUgraphExec hGraphExec, CUgraphNode hNode,
            CUevent event)""",
        remote="async"),
    fn("cuGraphExecExternalSemaphoresSignalNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExecExternalSemaphoresSignalNodeSetParams 11020 (CUgraphExec hGraphExec,
            CUgraphNode hNode, const CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphExecExternalSemaphoresWaitNodeSetParams", Cls.OTHER, Gate.NONE, """
        cuGraphExecExternalSemaphoresWaitNodeSetParams 11020 (CUgraphExec hGraphExec,
            CUgraphNode hNode, const CUDA_EXT_SEM_WAIT_NODE_PARAMS *nodeParams)""",
        remote="refused: an object of another interface of this machine"),
    fn("cuGraphNodeSetEnabled", Cls.OTHER, Gate.NONE, """
        cuGraphNodeSetEnabled 11060 (CUgraphExec hGraphExec, CUgraphNode hNode,
            unsigned int isEnabled)""",
        remote="async"),
    fn("cuGraphNodeGetEnabled", Cls.QUERY, Gate.NONE, """
        cuGraphNodeGetEnabled 11060 (CUgraphExec hGraphExec, CUgraphNode hNode,
            unsigned int *isEnabled)""",
        remote="sync"),
    fn("cuGraphUpload", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuGraphUpload 11010 ptsz=11010 (CUgraphExec hGraph, CUstream hStream)""",
        remote="sync",
        charge=Charge.GRAPH),
    fn("cuGraphLaunch", Cls.LAUNCH, Gate.GRAPH_LAUNCH, """
        cuGraphLaunch 10000 ptsz=10000 (CUgraphExec hGraph, CUstream hStream)""",
        remote="async"),
    fn("cuGraphExecDestroy", Cls.FREE, Gate.MEM_FREE, """
        cuGraphExecDestroy 10000 (CUgraphExec hGraphExec)""",
        remote="async hGraphExec=del"),
    fn("cuGraphDestroy", Cls.FREE, Gate.NONE, """
        cuGraphDestroy 10000 (CUgraph hGraph)""",
        remote="async hGraph=del"),
    fn("cuGraphExecUpdate", Cls.OTHER, Gate.KERNEL, """
        cuGraphExecUpdate 10020 (CUgraphExec hGraphExec, CUgraph hGraph,
            CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out)
        cuGraphExecUpdate_v2 12000 (CUgraphExec hGraphExec, CUgraph hGraph,
            CUgraphExecUpdateResultInfo *resultInfo)""",
        remote="sync always hErrorNode_out=ref"),
    fn("cuGraphKernelNodeCopyAttributes", Cls.OTHER, Gate.NONE, """
        cuGraphKernelNodeCopyAttributes 11000 (CUgraphNode dst, CUgraphNode src)""",
        remote="async"),
    fn("cuGraphKernelNodeGetAttribute", Cls.QUERY, Gate.NONE, """
        cuGraphKernelNodeGetAttribute 11000 (CUgraphNode hNode, CUkernelNodeAttrID attr,
            CUkernelNodeAttrValue *value_out)""",
        remote="sync value_out=out(attr)"),
    fn("cuGraphKernelNodeSetAttribute", Cls.OTHER, Gate.NONE, """
        cuGraphKernelNodeSetAttribute 11000 (CUgraphNode hNode, CUkernelNodeAttrID attr,
            const CUkernelNodeAttrValue *value)""",
        remote="async value=in(attr)"),
    fn("cuGraphDebugDotPrint", Cls.OTHER, Gate.NONE, """
        cuGraphDebugDotPrint 11030 (CUgraph hGraph, const char *path, unsigned int flags)""",
        remote="refused: writes a file, and no path crosses the wire"),
    fn("cuUserObjectCreate", Cls.OTHER, Gate.NONE, """
        cuUserObjectCreate 11030 (CUuserObject *object_out, void *ptr, CUhostFn destroy,
            unsigned int initialRefcount, unsigned int flags)""",
        remote="async object_out=new ptr=none destroy=ticket"),
    fn("cuUserObjectRetain", Cls.OTHER, Gate.NONE, """
        cuUserObjectRetain 11030 (CUuserObject object, unsigned int count)""",
        remote="async"),
    fn("cuUserObjectRelease", Cls.FREE, Gate.NONE, """
        cuUserObjectRelease 11030 (CUuserObject object, unsigned int count)""",
        remote="async"),
    fn("cuGraphRetainUserObject", Cls.OTHER, Gate.NONE, """
        cuGraphRetainUserObject 11030 (CUgraph graph, CUuserObject object, unsigned int count,
            unsigned int flags)""",
        remote="async"),
    fn("cuGraphReleaseUserObject", Cls.FREE, Gate.NONE, """
        cuGraphReleaseUserObject 11030 (CUgraph graph, CUuserObject object, unsigned int count)""",
        remote="async"),
    fn("cuGraphAddNode", Cls.ALLOC, Gate.TRACK, """
        cuGraphAddNode 12020 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, size_t numDependencies,
            CUgraphNodeParams *nodeParams)
        cuGraphAddNode_v2 12030 (CUgraphNode *phGraphNode, CUgraph hGraph,
            const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
            size_t numDependencies, CUgraphNodeParams *nodeParams)""",
        remote="sync resident phGraphNode=new dependencyData=in[numDependencies] nodeParams=inout",
        charge=Charge.GRAPH),
    fn("cuGraphNodeSetParams", Cls.OTHER, Gate.KERNEL, """
        cuGraphNodeSetParams 12020 (CUgraphNode hNode, CUgraphNodeParams *nodeParams)""",
        remote="async resident nodeParams=in"),
    fn("cuGraphExecNodeSetParams", Cls.OTHER, Gate.KERNEL, """
        cuGraphExecNodeSetParams 12020 (CUgraphExec hGraphExec, CUgraphNode hNode,
            CUgraphNodeParams *nodeParams)""",
        remote="async resident nodeParams=in"),
    fn("cuGraphConditionalHandleCreate", Cls.OTHER, Gate.NONE, """
        cuGraphConditionalHandleCreate 12030 (CUgraphConditionalHandle *pHandle_out,
            CUgraph hGraph, CUcontext ctx, unsigned int defaultLaunchValue, unsigned int flags)""",
        remote="sync"),
    fn("cuGraphInstantiate", Cls.ALLOC, Gate.TRACK, """
        cuGraphInstantiate 10000 (CUgraphExec *phGraphExec, CUgraph hGraph,
            CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
        cuGraphInstantiate_v2 11000 (CUgraphExec *phGraphExec, CUgraph hGraph,
            CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)""",
        remote="sync always phGraphExec=new phErrorNode=ref logBuffer=text[bufferSize]",
        charge=Charge.GRAPH),
)
