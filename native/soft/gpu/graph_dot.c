/* SPDX-License-Identifier: Apache-2.0
 *
 * cuGraphDebugDotPrint: a graph as text for Graphviz, child graphs as clusters. Flags add lines to
 * the labels.
 */
#include <stdio.h>
#include <string.h>

#include "soft/gpu/graph.h"
#include "soft/gpu/memop.h"

#define FLAGS_KNOWN     0xffffu
#define PARAMS_OF(flag) (CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE | (flag))

static const char *name_of(CUgraphNodeType type)
{
    static const char *const names[] = {"KERNEL",         "MEMCPY",       "MEMSET",
                                        "HOST",           "GRAPH",        "EMPTY",
                                        "WAIT_EVENT",     "EVENT_RECORD", "EXT_SEMAS_SIGNAL",
                                        "EXT_SEMAS_WAIT", "MEM_ALLOC",    "MEM_FREE",
                                        "BATCH_MEM_OP",   "CONDITIONAL"};
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "UNKNOWN";
}

static void print_kernel(FILE *file, const struct soft_launch *launch, unsigned flags)
{
    const struct soft_shape *shape = &launch->shape;
    fprintf(file, "\\n%s", launch->function->kernel->entry->name);
    if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS)) != 0)
        fprintf(file, "\\n<<<%u,%u,%u, %u,%u,%u, %u>>>", shape->grid[0], shape->grid[1],
                shape->grid[2], shape->block[0], shape->block[1], shape->block[2],
                shape->dynamic_bytes);
    if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_ATTRIBUTES)) != 0)
        fprintf(file, "\\ncooperative %d\\npriority %d", shape->cooperative,
                launch->attributes.priority);
}

static void print_params(FILE *file, const struct soft_node *node, unsigned flags)
{
    CUDA_HOST_NODE_PARAMS host;
    CUDA_MEMSET_NODE_PARAMS fill;
    CUDA_MEMCPY3D copy;
    switch ((int)node->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        print_kernel(file, (const struct soft_launch *)node->cmd, flags);
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        soft_copy_params(node->cmd, &copy);
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_MEMCPY_NODE_PARAMS)) != 0)
            fprintf(file, "\\n%zu x %zu x %zu", copy.WidthInBytes, copy.Height, copy.Depth);
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        soft_memset_params(node->cmd, &fill);
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_MEMSET_NODE_PARAMS)) != 0)
            fprintf(file, "\\n0x%llx = %u, %zu x %zu", (unsigned long long)fill.dst, fill.value,
                    fill.width, fill.height);
        break;
    case CU_GRAPH_NODE_TYPE_HOST:
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_HOST_NODE_PARAMS)) != 0 &&
            soft_hostfn_params(node->cmd, &host))
            fprintf(file, "\\n%p(%p)", (void *)(uintptr_t)host.fn, host.userData);
        break;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_EVENT_NODE_PARAMS)) != 0)
            fprintf(file, "\\nevent %p", (void *)node->u.event);
        break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_BATCH_MEM_OP_NODE_PARAMS)) != 0)
            fprintf(file, "\\n%u operations", ((const struct soft_memop *)node->cmd)->count);
        break;
    default:
        break;
    }
}

/* Nodes are numbered by their places in their graph, graphs by the path to them. */
static void print_graph(FILE *file, const struct soft_graph *graph, const char *path,
                        unsigned flags)
{
    fprintf(file, "subgraph cluster_%s {\nlabel=\"graph_%s\";\n", path, path);
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = i;
    for (size_t i = 0; i < graph->count; i++) {
        const struct soft_node *node = graph->nodes[i];
        fprintf(file, "\"graph_%s_node_%zu\" [shape=\"%s\" label=\"%zu\\n%s", path, i,
                node->type == CU_GRAPH_NODE_TYPE_KERNEL ? "octagon" : "rectangle", i,
                name_of(node->type));
        print_params(file, node, flags);
        if ((flags & PARAMS_OF(CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES)) != 0)
            fprintf(file, "\\nnode handle: %p", (const void *)node);
        fprintf(file, "\"];\n");
    }
    for (size_t i = 0; i < graph->count; i++)
        for (size_t d = 0; d < graph->nodes[i]->dep_count; d++)
            fprintf(file, "\"graph_%s_node_%zu\" -> \"graph_%s_node_%zu\";\n", path,
                    graph->nodes[i]->deps[d]->mark, path, i);
    for (size_t i = 0; i < graph->count; i++) {
        char inner[256];
        if (graph->nodes[i]->type != CU_GRAPH_NODE_TYPE_GRAPH)
            continue;
        snprintf(inner, sizeof inner, "%s_%zu", path, i);
        print_graph(file, graph->nodes[i]->u.child, inner, flags);
    }
    fprintf(file, "}\n");
}

CUresult cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags)
{
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (path == NULL || (flags & ~FLAGS_KNOWN) != 0 || soft_graph_of(hGraph) == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return CUDA_ERROR_OPERATING_SYSTEM;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph != NULL) {
        fprintf(file, "digraph dot {\n");
        print_graph(file, graph, "1", flags);
        fprintf(file, "}\n");
    }
    pthread_mutex_unlock(&soft_graph_lock);
    if (graph == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    if (fclose(file) != 0)
        result = CUDA_ERROR_OPERATING_SYSTEM;
    return result;
}
