/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs and nodes as objects: made, copied, freed, ordered.
 */
#include "soft/gpu/graph.h"

#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph_memory.h"

pthread_mutex_t soft_graph_lock = PTHREAD_MUTEX_INITIALIZER;

struct soft_graph *soft_graph_of(CUgraph handle)
{
    return soft_handle_is(SOFT_H_GRAPH, handle) ? (struct soft_graph *)handle : NULL;
}

struct soft_node *soft_node_of(CUgraphNode handle)
{
    return soft_handle_is(SOFT_H_GRAPH_NODE, handle) ? (struct soft_node *)handle : NULL;
}

void soft_cmd_free(struct soft_cmd *cmd)
{
    if (cmd == NULL)
        return;
    if (cmd->ops->destroy != NULL)
        cmd->ops->destroy(cmd);
    else
        free(cmd);
}

CUresult soft_graph_new(struct soft_graph **out)
{
    struct soft_graph *graph = calloc(1, sizeof *graph);
    if (graph == NULL || soft_handle_add(SOFT_H_GRAPH, graph) != 0) {
        free(graph);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = graph;
    return CUDA_SUCCESS;
}

static void node_free(struct soft_node *node)
{
    soft_handle_remove(SOFT_H_GRAPH_NODE, node);
    soft_cmd_free(node->cmd);
    if (node->type == CU_GRAPH_NODE_TYPE_GRAPH && node->u.child != NULL)
        soft_graph_free(node->u.child);
    free(node->pointers);
    free(node->deps);
    free(node);
}

void soft_graph_free(struct soft_graph *graph)
{
    soft_handle_remove(SOFT_H_GRAPH, graph);
    for (size_t i = 0; i < graph->count; i++)
        node_free(graph->nodes[i]);
    soft_graph_memory_drop(graph);
    soft_users_drop(&graph->users);
    free(graph->nodes);
    free(graph);
}

void soft_graph_remove_last(struct soft_graph *graph)
{
    node_free(graph->nodes[--graph->count]);
}

/* Room for one more: the array, moved perhaps; NULL without memory (the old one stays good). */
static void *reserve(void *array, size_t count, size_t *room)
{
    if (count < *room)
        return array;
    size_t wider = *room == 0 ? 8 : *room * 2;
    void *grown = realloc(array, wider * sizeof(void *));
    if (grown != NULL)
        *room = wider;
    return grown;
}

static CUresult push_dep(struct soft_node *node, struct soft_node *on)
{
    struct soft_node **deps = reserve(node->deps, node->dep_count, &node->dep_room);
    if (deps == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    node->deps = deps;
    node->deps[node->dep_count++] = on;
    return CUDA_SUCCESS;
}

CUresult soft_node_depend(struct soft_node *node, struct soft_node *on)
{
    if (node == on || node->graph != on->graph)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < node->dep_count; i++)
        if (node->deps[i] == on)
            return CUDA_ERROR_INVALID_VALUE; /* there already */
    return push_dep(node, on);
}

void soft_node_set_cmd(struct soft_node *node, struct soft_cmd *cmd, struct soft_ctx *ctx)
{
    soft_cmd_free(node->cmd);
    node->cmd = cmd;
    node->ctx = ctx;
    node->ctx_id = ctx != NULL ? soft_ctx_id(ctx) : 0;
    free(node->pointers);
    node->pointers = NULL;
}

CUresult soft_graph_add(struct soft_graph *graph, CUgraphNodeType type, struct soft_cmd *cmd,
                        struct soft_ctx *ctx, const CUgraphNode *deps, size_t dep_count,
                        struct soft_node **out)
{
    if (dep_count > 0 && deps == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_node **nodes = reserve(graph->nodes, graph->count, &graph->room);
    if (nodes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    graph->nodes = nodes;
    struct soft_node *node = calloc(1, sizeof *node);
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = CUDA_SUCCESS;
    node->type = type;
    node->graph = graph;
    for (size_t i = 0; result == CUDA_SUCCESS && i < dep_count; i++) {
        struct soft_node *on = soft_node_of(deps[i]);
        result = on == NULL ? CUDA_ERROR_INVALID_VALUE : soft_node_depend(node, on);
    }
    if (result == CUDA_SUCCESS && soft_handle_add(SOFT_H_GRAPH_NODE, node) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        free(node->deps);
        free(node);
        return result;
    }
    soft_node_set_cmd(node, cmd, ctx);
    graph->nodes[graph->count++] = node;
    *out = node;
    return CUDA_SUCCESS;
}

bool soft_node_before(const struct soft_node *node, const struct soft_node *from)
{
    /* depth first over predecessors, with marks against seeing a node twice */
    const struct soft_graph *graph = from->graph;
    struct soft_node **stack = calloc(graph->count + 1, sizeof(struct soft_node *));
    if (stack == NULL)
        return false;
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = 0;
    size_t depth = 0;
    bool found = node == from;
    for (size_t i = 0; i < from->dep_count; i++)
        if (from->deps[i]->mark == 0) {
            from->deps[i]->mark = 1;
            stack[depth++] = from->deps[i];
        }
    while (depth > 0 && !found) {
        struct soft_node *at = stack[--depth];
        found = at == node;
        for (size_t i = 0; i < at->dep_count; i++)
            if (at->deps[i]->mark == 0) {
                at->deps[i]->mark = 1;
                stack[depth++] = at->deps[i];
            }
    }
    free(stack);
    return found;
}

/* `mark` of the original is its place, so that edges find their copies. */
static CUresult copy_node(const struct soft_node *from, struct soft_graph *graph)
{
    struct soft_cmd *cmd = NULL;
    struct soft_node *node = NULL;
    if (from->cmd != NULL) {
        cmd = from->cmd->ops->clone(from->cmd);
        if (cmd == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    CUresult result = soft_graph_add(graph, from->type, cmd, NULL, NULL, 0, &node);
    if (result != CUDA_SUCCESS) {
        soft_cmd_free(cmd);
        return result;
    }
    node->original = from;
    node->ctx = from->ctx;
    node->ctx_id = from->ctx_id;
    node->has_params = from->has_params;
    node->disabled = from->disabled;
    node->u = from->u;
    if (from->type == CU_GRAPH_NODE_TYPE_GRAPH) {
        node->u.child = NULL;
        result = soft_graph_copy(from->u.child, &node->u.child);
        if (result == CUDA_SUCCESS)
            node->u.child->owned = true;
    }
    for (size_t i = 0; result == CUDA_SUCCESS && i < from->dep_count; i++)
        result = push_dep(node, from->deps[i]); /* the original's for now: see soft_graph_copy */
    return result;
}

CUresult soft_graph_copy(const struct soft_graph *from, struct soft_graph **out)
{
    struct soft_graph *graph = NULL;
    CUresult result = soft_graph_new(&graph);
    if (result == CUDA_SUCCESS)
        result = soft_users_copy(&from->users, &graph->users);
    for (size_t i = 0; result == CUDA_SUCCESS && i < from->count; i++)
        result = copy_node(from->nodes[i], graph);
    if (result != CUDA_SUCCESS) {
        if (graph != NULL)
            soft_graph_free(graph);
        return result;
    }
    soft_graph_memory_share(graph, from);
    for (size_t i = 0; i < from->count; i++)
        from->nodes[i]->mark = i;
    for (size_t i = 0; i < graph->count; i++)
        for (size_t d = 0; d < graph->nodes[i]->dep_count; d++)
            graph->nodes[i]->deps[d] = graph->nodes[graph->nodes[i]->deps[d]->mark];
    *out = graph;
    return CUDA_SUCCESS;
}

CUresult cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (phGraph == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_graph *graph = NULL;
    result = soft_graph_new(&graph);
    if (result == CUDA_SUCCESS)
        *phGraph = (CUgraph)graph;
    return result;
}

CUresult cuGraphDestroy(CUgraph hGraph)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph == NULL || graph->owned || graph->capture != NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else
        soft_graph_free(graph);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_graph *copy = NULL;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(originalGraph);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (phGraphClone != NULL && graph != NULL && soft_graph_has_memory(graph))
        result = CUDA_ERROR_NOT_SUPPORTED;
    else if (phGraphClone != NULL && graph != NULL)
        result = soft_graph_copy(graph, &copy);
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS)
        *phGraphClone = (CUgraph)copy;
    return result;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode,
                                CUgraph hClonedGraph)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(hClonedGraph);
    if (phNode != NULL && graph != NULL && soft_node_of(hOriginalNode) != NULL)
        for (size_t i = 0; i < graph->count; i++)
            if (graph->nodes[i]->original == (struct soft_node *)hOriginalNode) {
                *phNode = (CUgraphNode)graph->nodes[i];
                result = CUDA_SUCCESS;
            }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphDestroyNode(CUgraphNode hNode)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = soft_node_of(hNode);
    if (node == NULL || node->graph->memory != NULL) {
        pthread_mutex_unlock(&soft_graph_lock);
        return node == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
    }
    struct soft_graph *graph = node->graph;
    size_t kept = 0;
    for (size_t i = 0; i < graph->count; i++) {
        struct soft_node *other = graph->nodes[i];
        size_t deps = 0;
        for (size_t d = 0; d < other->dep_count; d++)
            if (other->deps[d] != node)
                other->deps[deps++] = other->deps[d];
        other->dep_count = deps;
        if (other != node)
            graph->nodes[kept++] = other;
    }
    graph->count = kept;
    node_free(node);
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}
