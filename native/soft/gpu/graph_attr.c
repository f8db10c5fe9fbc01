/* SPDX-License-Identifier: Apache-2.0
 *
 * Attributes of kernel nodes, kept in the node's command.
 */
#include "soft/gpu/context.h"
#include "soft/gpu/graph.h"

/* The command of a kernel node; with soft_graph_lock held. */
static struct soft_launch *launch_of(CUgraphNode handle)
{
    struct soft_node *node = soft_node_of(handle);
    return node != NULL && node->type == CU_GRAPH_NODE_TYPE_KERNEL ? (struct soft_launch *)node->cmd
                                                                   : NULL;
}

static CUresult get(const struct soft_launch *launch, CUkernelNodeAttrID attr,
                    CUkernelNodeAttrValue *value)
{
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        value->accessPolicyWindow = launch->attributes.window;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        value->cooperative = launch->shape.cooperative;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        value->clusterDim.x = value->clusterDim.y = value->clusterDim.z = 1;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        value->clusterSchedulingPolicyPreference = launch->attributes.cluster_policy;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        value->priority = launch->attributes.priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        value->memSyncDomainMap = (CUlaunchMemSyncDomainMap){0, 0};
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        value->memSyncDomain = launch->attributes.domain;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        value->sharedMemCarveout = launch->attributes.carveout;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                       CUkernelNodeAttrValue *value_out)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_launch *launch = launch_of(hNode);
    if (launch != NULL && value_out != NULL)
        result = get(launch, attr, value_out);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

static CUresult set(struct soft_launch *launch, CUkernelNodeAttrID attr,
                    const CUkernelNodeAttrValue *value)
{
    CUlaunchAttribute attribute = {.id = attr, .value = *value};
    struct soft_launch_wish wish = {.shape = launch->shape, .attributes = launch->attributes};
    switch ((int)attr) { /* valid for nodes; the rest belong to streams and launches */
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        break;
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = soft_launch_attribute(&attribute, &wish);
    if (result != CUDA_SUCCESS)
        return result;
    bool before = launch->shape.cooperative;
    launch->shape.cooperative = wish.shape.cooperative;
    if (!soft_launch_fits(launch)) {
        launch->shape.cooperative = before;
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    launch->attributes = wish.attributes;
    return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                       const CUkernelNodeAttrValue *value)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_launch *launch = launch_of(hNode);
    if (launch != NULL && value != NULL)
        result = set(launch, attr, value);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

/* Both nodes must be of one context. */
CUresult cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_launch *from = launch_of(src);
    struct soft_launch *to = launch_of(dst);
    if (from != NULL && to != NULL && from->function->module->ctx == to->function->module->ctx) {
        bool before = to->shape.cooperative;
        to->shape.cooperative = from->shape.cooperative;
        result = soft_launch_fits(to) ? CUDA_SUCCESS : CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
        if (result == CUDA_SUCCESS)
            to->attributes = from->attributes;
        else
            to->shape.cooperative = before;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}
