/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation and free nodes: made by hand and by captures, read back. They do nothing when it is
 * their turn: a launch has its memory before its first node and until after its last.
 */
#include "soft/gpu/graph_memory.h"

#include <stdlib.h>
#include <string.h>

#include "soft/gpu/capture_state.h"

bool soft_graph_has_memory(const struct soft_graph *graph)
{
    for (size_t i = 0; i < graph->count; i++)
        if (graph->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH && graph->nodes[i]->u.child != NULL &&
            soft_graph_has_memory(graph->nodes[i]->u.child))
            return true;
    return graph->memory != NULL;
}

void soft_graph_memory_share(struct soft_graph *copy, const struct soft_graph *from)
{
    if (from->memory == NULL)
        return;
    soft_space_lock();
    soft_graph_memory_ref(from->memory);
    soft_space_unlock();
    copy->memory = from->memory;
}

void soft_graph_memory_drop(struct soft_graph *graph)
{
    if (graph->memory == NULL)
        return;
    soft_space_lock();
    soft_graph_memory_unref(graph->memory);
    soft_space_unlock();
    graph->memory = NULL;
}

CUresult soft_graph_memory_enter(const struct soft_graph *graph)
{
    bool first = true;
    if (graph->memory != NULL) {
        soft_space_lock();
        first = soft_graph_memory_instantiate(graph->memory);
        soft_space_unlock();
    }
    return first ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

void soft_graph_memory_leave(const struct soft_graph *graph)
{
    if (graph->memory == NULL)
        return;
    soft_space_lock();
    soft_graph_memory_uninstantiate(graph->memory);
    soft_space_unlock();
}

/* ------------------------------------------------------------------------------ adding nodes -- */
/* Marks (1) all nodes that come before a new one with these dependencies. */
static CUresult mark_before(const struct soft_graph *graph, const CUgraphNode *deps, size_t count)
{
    struct soft_node **stack = calloc(graph->count + 1, sizeof *stack);
    size_t depth = 0;
    if (stack == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = 0;
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        struct soft_node *on = soft_node_of(deps[i]);
        if (on == NULL || on->graph != graph || on->mark != 0)
            result = CUDA_ERROR_INVALID_VALUE; /* not one of its own, or named twice */
        else {
            on->mark = 1;
            stack[depth++] = on;
        }
    }
    while (depth > 0 && result == CUDA_SUCCESS) {
        const struct soft_node *at = stack[--depth];
        for (size_t i = 0; i < at->dep_count; i++)
            if (at->deps[i]->mark == 0) {
                at->deps[i]->mark = 1;
                stack[depth++] = at->deps[i];
            }
    }
    free(stack);
    return result;
}

static bool is_marked(const void *node)
{
    return ((const struct soft_node *)node)->mark == 1;
}

static CUresult memory_of(struct soft_graph *graph)
{
    if (graph->owned)
        return CUDA_ERROR_NOT_SUPPORTED; /* the graph of a child node */
    if (graph->memory == NULL) {
        soft_space_lock();
        if (soft_space_make() == 0)
            graph->memory = soft_graph_memory_new();
        soft_space_unlock();
    }
    return graph->memory != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* With soft_graph_lock held. */
static CUresult add_alloc(struct soft_graph *graph, const struct soft_graph_alloc *wanted,
                          int ordinal, uint64_t peers, const CUgraphNode *deps, size_t dep_count,
                          struct soft_node **out)
{
    struct soft_graph_alloc *alloc = NULL;
    CUresult result = mark_before(graph, deps, dep_count);
    if (result == CUDA_SUCCESS)
        result = memory_of(graph);
    if (result != CUDA_SUCCESS)
        return result;
    soft_space_lock();
    alloc = soft_graph_alloc_new(graph->memory, wanted, ordinal, peers, is_marked);
    soft_space_unlock();
    if (alloc == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = soft_graph_add(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, NULL, NULL, deps, dep_count, out);
    if (result == CUDA_SUCCESS) {
        (*out)->u.memory = alloc;
        return CUDA_SUCCESS;
    }
    soft_space_lock();
    soft_graph_alloc_undo(graph->memory);
    soft_space_unlock();
    return result;
}

static CUresult add_free(struct soft_graph *graph, CUdeviceptr ptr, const CUgraphNode *deps,
                         size_t dep_count, struct soft_node **out)
{
    CUresult result = mark_before(graph, deps, dep_count);
    if (result == CUDA_SUCCESS)
        result = memory_of(graph);
    if (result == CUDA_SUCCESS)
        result =
            soft_graph_add(graph, CU_GRAPH_NODE_TYPE_MEM_FREE, NULL, NULL, deps, dep_count, out);
    if (result != CUDA_SUCCESS)
        return result;
    (*out)->u.freed = ptr;
    soft_space_lock();
    result = soft_graph_free_add(graph->memory, ptr, *out);
    soft_space_unlock();
    if (result != CUDA_SUCCESS)
        soft_graph_remove_last(graph);
    return result;
}

/* ------------------------------------------------------------------------------- from nodes --- */
static CUresult check_desc(const CUmemAccessDesc *desc, CUdevice device, uint64_t *peers)
{
    int ordinal = soft_visible_ordinal(desc->location.id);
    if (desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    if (ordinal < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (desc->location.id == device)
        return CUDA_SUCCESS;
    if (!soft_devices_peer(ordinal, soft_visible_ordinal(device)))
        return CUDA_ERROR_INVALID_DEVICE;
    *peers |= 1ull << ordinal;
    return CUDA_SUCCESS;
}

static CUresult check_alloc(const CUDA_MEM_ALLOC_NODE_PARAMS *params, int *ordinal, uint64_t *peers)
{
    const CUmemPoolProps *props = &params->poolProps;
    CUresult result = CUDA_SUCCESS;
    if (params->bytesize == 0 || props->allocType == CU_MEM_ALLOCATION_TYPE_INVALID ||
        props->location.type == CU_MEM_LOCATION_TYPE_INVALID ||
        (params->accessDescCount > 0 && params->accessDescs == NULL) ||
        params->accessDescCount > (size_t)soft_visible_count())
        return CUDA_ERROR_INVALID_VALUE;
    if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        props->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        props->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED; /* device memory of this process, nothing else */
    *ordinal = soft_visible_ordinal(props->location.id);
    if (*ordinal < 0)
        return CUDA_ERROR_INVALID_DEVICE;
    *peers = 0;
    for (size_t i = 0; i < params->accessDescCount && result == CUDA_SUCCESS; i++)
        result = check_desc(&params->accessDescs[i], props->location.id, peers);
    return result;
}

CUresult cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                const CUgraphNode *dependencies, size_t numDependencies,
                                CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
    struct soft_graph_alloc wanted = {0};
    struct soft_node *node = NULL;
    uint64_t peers = 0;
    int ordinal = 0;
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraphNode == NULL || nodeParams == NULL || (numDependencies > 0 && dependencies == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    result = check_alloc(nodeParams, &ordinal, &peers);
    if (result != CUDA_SUCCESS)
        return result;
    wanted.asked = nodeParams->bytesize;
    wanted.props = nodeParams->poolProps;
    wanted.desc_count = nodeParams->accessDescCount;
    if (wanted.desc_count > 0) {
        wanted.descs = calloc(wanted.desc_count, sizeof *wanted.descs);
        if (wanted.descs == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        memcpy(wanted.descs, nodeParams->accessDescs, wanted.desc_count * sizeof *wanted.descs);
    }
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(hGraph);
    result = graph == NULL
                 ? CUDA_ERROR_INVALID_VALUE
                 : add_alloc(graph, &wanted, ordinal, peers, dependencies, numDependencies, &node);
    if (result == CUDA_SUCCESS)
        nodeParams->dptr = node->u.memory->start;
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS)
        *phGraphNode = (CUgraphNode)node;
    else
        free(wanted.descs);
    return result;
}

CUresult cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                               const CUgraphNode *dependencies, size_t numDependencies,
                               CUdeviceptr dptr)
{
    struct soft_node *node = NULL;
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraphNode == NULL || (numDependencies > 0 && dependencies == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(hGraph);
    result = graph == NULL ? CUDA_ERROR_INVALID_VALUE
                           : add_free(graph, dptr, dependencies, numDependencies, &node);
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS)
        *phGraphNode = (CUgraphNode)node;
    return result;
}

_Static_assert(sizeof(CUDA_MEM_ALLOC_NODE_PARAMS_v1) == sizeof(CUDA_MEM_ALLOC_NODE_PARAMS_v2),
               "v1 and v2 are alike");

CUresult soft_graph_memory_add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                               size_t dep_count, CUgraphNodeParams *params)
{
    CUDA_MEM_ALLOC_NODE_PARAMS alloc;
    for (size_t i = 0; i < 3; i++)
        if (params->reserved0[i] != 0)
            return CUDA_ERROR_INVALID_VALUE;
    if (params->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
        return cuGraphAddMemFreeNode(out, graph, deps, dep_count, params->free.dptr);
    memcpy(&alloc, &params->alloc, sizeof alloc);
    CUresult result = cuGraphAddMemAllocNode(out, graph, deps, dep_count, &alloc);
    if (result == CUDA_SUCCESS)
        params->alloc.dptr = alloc.dptr;
    return result;
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *params_out)
{
    CUresult ready = soft_ready(), result = CUDA_ERROR_INVALID_VALUE;
    if (ready != CUDA_SUCCESS)
        return ready;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(hNode);
    if (node != NULL && params_out != NULL && node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
        const struct soft_graph_alloc *a = node->u.memory;
        *params_out = (CUDA_MEM_ALLOC_NODE_PARAMS){.poolProps = a->props,
                                                   .accessDescs = a->descs,
                                                   .accessDescCount = a->desc_count,
                                                   .bytesize = a->asked,
                                                   .dptr = a->start};
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out)
{
    CUresult ready = soft_ready(), result = CUDA_ERROR_INVALID_VALUE;
    if (ready != CUDA_SUCCESS)
        return ready;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(hNode);
    if (node != NULL && dptr_out != NULL && node->type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
        *dptr_out = node->u.freed;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

/* ----------------------------------------------------------------------------- from captures -- */
/* The capturing stream's part, or why there is none. With soft_graph_lock held. */
static CUresult enter(struct soft_stream *stream, struct soft_capture **capture,
                      struct soft_capture_stream **part)
{
    *capture = soft_capture_of(stream);
    if (*capture == NULL)
        return CUDA_ERROR_ILLEGAL_STATE; /* ended by another thread meanwhile */
    if ((*capture)->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *part = soft_capture_find(*capture, stream);
    return *part != NULL ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

static CUresult follow(struct soft_capture_stream *part, struct soft_node *node)
{
    CUgraphNode handle = (CUgraphNode)node;
    part->count = 0;
    return soft_capture_depend(part, &handle, 1);
}

static CUresult descs_of(const CUmemPoolProps *props, const uint8_t access[SOFT_MAX_DEVICES],
                         struct soft_graph_alloc *wanted, uint64_t *peers)
{
    wanted->descs = calloc(SOFT_MAX_DEVICES, sizeof *wanted->descs);
    if (wanted->descs == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = 0; i < soft_visible_count(); i++)
        if (i != props->location.id && access[soft_visible_ordinal(i)] == SOFT_ACCESS_ALL) {
            wanted->descs[wanted->desc_count++] = (CUmemAccessDesc){
                {CU_MEM_LOCATION_TYPE_DEVICE, i}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
            *peers |= 1ull << soft_visible_ordinal(i);
        }
    return CUDA_SUCCESS;
}

CUresult soft_capture_alloc(struct soft_stream *stream, const CUmemPoolProps *props,
                            const uint8_t access[SOFT_MAX_DEVICES], uint64_t bytes,
                            CUdeviceptr *out)
{
    struct soft_graph_alloc wanted = {.asked = bytes, .props = *props};
    struct soft_capture *capture;
    struct soft_capture_stream *part = NULL;
    struct soft_node *node = NULL;
    uint64_t peers = 0;
    CUresult result = descs_of(props, access, &wanted, &peers);
    if (result != CUDA_SUCCESS)
        return result;
    wanted.props.handleTypes = CU_MEM_HANDLE_TYPE_NONE;
    pthread_mutex_lock(&soft_graph_lock);
    result = enter(stream, &capture, &part);
    if (result == CUDA_SUCCESS && (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
                                   props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED))
        result = soft_capture_spoil(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (result == CUDA_SUCCESS)
        result = add_alloc(capture->graph, &wanted, soft_visible_ordinal(props->location.id), peers,
                           part->deps, part->count, &node);
    if (result == CUDA_SUCCESS) {
        *out = node->u.memory->start;
        result = follow(part, node);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    if (node == NULL)
        free(wanted.descs);
    return result;
}

CUresult soft_capture_free(struct soft_stream *stream, CUdeviceptr ptr)
{
    struct soft_capture *capture;
    struct soft_capture_stream *part = NULL;
    struct soft_node *node = NULL;
    pthread_mutex_lock(&soft_graph_lock);
    CUresult result = enter(stream, &capture, &part);
    if (result == CUDA_SUCCESS)
        result = add_free(capture->graph, ptr, part->deps, part->count, &node);
    if (result == CUDA_SUCCESS)
        result = follow(part, node);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}
