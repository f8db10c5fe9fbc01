/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node shall do, checked and made into a command.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph_memory.h"
#include "soft/gpu/memop.h"

CUresult soft_work_ctx(CUcontext handle, struct soft_ctx **ctx)
{
    CUresult result = soft_current(ctx);
    if (handle == NULL)
        return result;
    if (!soft_handle_is(SOFT_H_CONTEXT, handle))
        return CUDA_ERROR_INVALID_CONTEXT;
    *ctx = (struct soft_ctx *)handle;
    return soft_ctx_sticky(*ctx);
}

CUresult soft_work_kernel(const CUDA_KERNEL_NODE_PARAMS *params, struct soft_work *work)
{
    *work = (struct soft_work){.type = CU_GRAPH_NODE_TYPE_KERNEL};
    CUresult result = soft_work_ctx(params->ctx, &work->ctx);
    if (result != CUDA_SUCCESS)
        return result;
    CUfunction function = params->func != NULL ? params->func : (CUfunction)params->kern;
    if (function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_shape shape = {{params->gridDimX, params->gridDimY, params->gridDimZ},
                               {params->blockDimX, params->blockDimY, params->blockDimZ},
                               params->sharedMemBytes,
                               false};
    struct soft_function *known = NULL;
    result = soft_function_of(function, work->ctx, &known);
    if (result != CUDA_SUCCESS)
        return result;
    work->ctx = known->module->ctx; /* a function belongs to its own context */
    struct soft_launch *launch = NULL;
    result =
        soft_launch_new(work->ctx, function, &shape, params->kernelParams, params->extra, &launch);
    if (result == CUDA_SUCCESS)
        work->cmd = &launch->cmd;
    return result;
}

CUresult soft_work_copy(const CUDA_MEMCPY3D *copy, CUcontext ctx, struct soft_work *work)
{
    *work = (struct soft_work){.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    CUresult result = soft_work_ctx(ctx, &work->ctx);
    if (result != CUDA_SUCCESS)
        return result;
    work->u.copy = *copy;
    return soft_copy_new(work->ctx, copy, &work->cmd);
}

CUresult soft_work_set(const CUDA_MEMSET_NODE_PARAMS_v1 *set, CUcontext ctx, struct soft_work *work)
{
    *work = (struct soft_work){.type = CU_GRAPH_NODE_TYPE_MEMSET};
    CUresult result = soft_work_ctx(ctx, &work->ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (set->elementSize != 1 && set->elementSize != 2 && set->elementSize != 4)
        return CUDA_ERROR_INVALID_VALUE;
    if (set->width == 0 || set->height == 0 ||
        (set->height > 1 && set->pitch < set->width * set->elementSize))
        return CUDA_ERROR_INVALID_VALUE;
    work->u.set = *set;
    return soft_memset_new(work->ctx, set->dst, set->pitch, set->value, set->elementSize,
                           set->width, set->height, &work->cmd);
}

CUresult soft_work_host(const CUDA_HOST_NODE_PARAMS_v1 *host, struct soft_work *work)
{
    *work = (struct soft_work){.type = CU_GRAPH_NODE_TYPE_HOST};
    if (host->fn == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    work->u.host = *host;
    return soft_hostfn_new(host->fn, host->userData, &work->cmd);
}

CUresult soft_work_event(CUevent event, bool record, struct soft_work *work)
{
    *work = (struct soft_work){.type = record ? CU_GRAPH_NODE_TYPE_EVENT_RECORD
                                              : CU_GRAPH_NODE_TYPE_WAIT_EVENT};
    struct soft_event *known = NULL;
    CUresult result = soft_event_of(event, &known);
    if (result != CUDA_SUCCESS)
        return result;
    work->u.event = event;
    return record ? soft_event_record_new(known, &work->cmd)
                  : soft_event_wait_new(known, &work->cmd);
}

CUresult soft_work_memop(const CUDA_BATCH_MEM_OP_NODE_PARAMS *params, struct soft_work *work)
{
    *work = (struct soft_work){.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
    CUresult result = soft_work_ctx(params->ctx, &work->ctx);
    if (result == CUDA_SUCCESS && params->flags != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
    return soft_memop_new(work->ctx, params->count, params->paramArray, &work->cmd);
}

static CUresult refuse(const char *what)
{
    soft_log("node_refused why=\"%s are not supported\"", what);
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* A copy of the graph, or the graph itself, which then is no graph of the client's any more. */
static CUresult work_child(const CUDA_CHILD_GRAPH_NODE_PARAMS *params, struct soft_work *work)
{
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *child = soft_graph_of(params->graph);
    if (child != NULL && soft_graph_has_memory(child)) {
        result = refuse("memory nodes of child graphs");
    } else if (child != NULL && params->ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE) {
        result = soft_graph_copy(child, &work->u.child);
    } else if (child != NULL && params->ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE &&
               !child->owned && child->capture == NULL) {
        work->u.child = child;
        work->adopt = true;
        result = CUDA_SUCCESS;
    }
    if (result == CUDA_SUCCESS)
        work->u.child->owned = true;
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

_Static_assert(sizeof(CUDA_KERNEL_NODE_PARAMS_v2) == sizeof(CUDA_KERNEL_NODE_PARAMS_v3),
               "v2 and v3 are alike");

CUresult soft_work_any(const CUgraphNodeParams *params, struct soft_work *work)
{
    *work = (struct soft_work){.type = params->type};
    for (size_t i = 0; i < 3; i++)
        if (params->reserved0[i] != 0)
            return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMSET_NODE_PARAMS_v1 set;
    CUDA_HOST_NODE_PARAMS_v1 host;
    CUDA_BATCH_MEM_OP_NODE_PARAMS memop;
    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        memcpy(&kernel, &params->kernel, sizeof kernel);
        return soft_work_kernel(&kernel, work);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        if (params->memcpy.flags != 0 || params->memcpy.reserved != 0)
            return CUDA_ERROR_INVALID_VALUE;
        return soft_work_copy(&params->memcpy.copyParams, params->memcpy.copyCtx, work);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        memcpy(&set, &params->memset, sizeof set);
        return soft_work_set(&set, params->memset.ctx, work);
    case CU_GRAPH_NODE_TYPE_HOST:
        memcpy(&host, &params->host, sizeof host);
        return soft_work_host(&host, work);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return soft_work_event(params->eventRecord.event, true, work);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return soft_work_event(params->eventWait.event, false, work);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return work_child(&params->graph, work);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        memcpy(&memop, &params->memOp, sizeof memop);
        return soft_work_memop(&memop, work);
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
        return refuse("external semaphore nodes");
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return refuse("memory nodes");
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: /* no kernel here can set the handle's value */
        return refuse("conditional nodes");
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

void soft_work_drop(struct soft_work *work)
{
    soft_cmd_free(work->cmd);
    work->cmd = NULL;
    if (work->type != CU_GRAPH_NODE_TYPE_GRAPH || work->u.child == NULL)
        return;
    if (work->adopt)
        work->u.child->owned = false; /* the client's again */
    else
        soft_graph_free(work->u.child);
}

CUresult soft_node_take(struct soft_node *node, struct soft_work *work)
{
    if (node->type != work->type) {
        soft_work_drop(work);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (node->type == CU_GRAPH_NODE_TYPE_KERNEL && node->cmd != NULL) {
        /* attributes are the node's, not the parameters' */
        const struct soft_launch *old = (const struct soft_launch *)node->cmd;
        struct soft_launch *launch = (struct soft_launch *)work->cmd;
        launch->attributes = old->attributes;
        launch->shape.cooperative = old->shape.cooperative;
        if (!soft_launch_fits(launch)) {
            soft_work_drop(work);
            return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
        }
    }
    soft_node_set_cmd(node, work->cmd, work->ctx);
    node->has_params = true;
    switch ((int)node->type) {
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        node->u.copy = work->u.copy;
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        node->u.set = work->u.set;
        break;
    case CU_GRAPH_NODE_TYPE_HOST:
        node->u.host = work->u.host;
        break;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        node->u.event = work->u.event;
        break;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        if (node->u.child != NULL)
            soft_graph_free(node->u.child);
        node->u.child = work->u.child;
        break;
    default:
        break;
    }
    return CUDA_SUCCESS;
}
