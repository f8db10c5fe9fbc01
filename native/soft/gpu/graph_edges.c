/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes and edges of a graph: listed, added, removed. Lists follow CUDA's protocol: no array asks
 * for the number; a longer array is filled up with NULL; the number written comes back.
 */
#include <string.h>

#include "soft/gpu/graph_memory.h"

/* Edges carry no data here: plain ones are zeroes, programmatic ones are refused by name. */
CUresult soft_edges_plain(const CUgraphEdgeData *data, size_t count)
{
    static const unsigned char none[sizeof data->reserved];
    for (size_t i = 0; data != NULL && i < count; i++) {
        const CUgraphEdgeData *edge = &data[i];
        if (edge->type > CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC || edge->to_port != 0 ||
            memcmp(edge->reserved, none, sizeof none) != 0)
            return CUDA_ERROR_INVALID_VALUE;
        if (edge->type == CU_GRAPH_DEPENDENCY_TYPE_DEFAULT && edge->from_port == 0)
            continue;
        soft_log("edge_refused why=\"programmatic dependencies are not supported\"");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                           const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
                           size_t numDependencies, CUgraphNodeParams *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = soft_edges_plain(dependencyData, numDependencies);
    if (result != CUDA_SUCCESS)
        return result;
    return cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

struct list { /* an answer being written */
    CUgraphNode *first, *second;
    CUgraphEdgeData *data;
    size_t room, count;
};

static void put(struct list *list, const struct soft_node *first, const struct soft_node *second)
{
    if (list->count < list->room) {
        if (list->first != NULL)
            list->first[list->count] = (CUgraphNode)(uintptr_t)first;
        if (list->second != NULL)
            list->second[list->count] = (CUgraphNode)(uintptr_t)second;
        if (list->data != NULL)
            memset(&list->data[list->count], 0, sizeof *list->data);
    }
    list->count++;
}

static void finish(struct list *list, size_t *count)
{
    bool asked = list->first == NULL && list->second == NULL;
    for (size_t i = list->count; !asked && i < list->room; i++) {
        if (list->first != NULL)
            list->first[i] = NULL;
        if (list->second != NULL)
            list->second[i] = NULL;
    }
    *count = asked || list->count < list->room ? list->count : list->room;
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(hNode);
    if (node != NULL && type != NULL) {
        *type = node->type;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

static CUresult list_nodes(CUgraph handle, CUgraphNode *nodes, size_t *count, bool roots)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {.first = nodes, .room = nodes != NULL ? *count : 0};
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(handle);
    for (size_t i = 0; graph != NULL && i < graph->count; i++)
        if (!roots || graph->nodes[i]->dep_count == 0)
            put(&list, graph->nodes[i], NULL);
    pthread_mutex_unlock(&soft_graph_lock);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    finish(&list, count);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    return list_nodes(hGraph, nodes, numNodes, false);
}

CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
    return list_nodes(hGraph, rootNodes, numRootNodes, true);
}

CUresult cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to,
                            CUgraphEdgeData *edgeData, size_t *numEdges)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (numEdges == NULL || (from == NULL) != (to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {from, to, edgeData, from != NULL ? *numEdges : 0, 0};
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    for (size_t i = 0; graph != NULL && i < graph->count; i++)
        for (size_t d = 0; d < graph->nodes[i]->dep_count; d++)
            put(&list, graph->nodes[i]->deps[d], graph->nodes[i]);
    pthread_mutex_unlock(&soft_graph_lock);
    if (graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    finish(&list, numEdges);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    return cuGraphGetEdges_v2(hGraph, from, to, NULL, numEdges);
}

CUresult cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies,
                                       CUgraphEdgeData *edgeData, size_t *numDependencies)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (numDependencies == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {dependencies, NULL, edgeData, dependencies != NULL ? *numDependencies : 0,
                        0};
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(hNode);
    for (size_t d = 0; node != NULL && d < node->dep_count; d++)
        put(&list, node->deps[d], NULL);
    pthread_mutex_unlock(&soft_graph_lock);
    if (node == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    finish(&list, numDependencies);
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies,
                                    size_t *numDependencies)
{
    return cuGraphNodeGetDependencies_v2(hNode, dependencies, NULL, numDependencies);
}

CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                         CUgraphEdgeData *edgeData, size_t *numDependentNodes)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (numDependentNodes == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct list list = {dependentNodes, NULL, edgeData,
                        dependentNodes != NULL ? *numDependentNodes : 0, 0};
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(hNode);
    for (size_t i = 0; node != NULL && i < node->graph->count; i++)
        for (size_t d = 0; d < node->graph->nodes[i]->dep_count; d++)
            if (node->graph->nodes[i]->deps[d] == node)
                put(&list, node->graph->nodes[i], NULL);
    pthread_mutex_unlock(&soft_graph_lock);
    if (node == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    finish(&list, numDependentNodes);
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                      size_t *numDependentNodes)
{
    return cuGraphNodeGetDependentNodes_v2(hNode, dependentNodes, NULL, numDependentNodes);
}

CUresult cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                   const CUgraphEdgeData *edgeData, size_t numDependencies)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = soft_edges_plain(edgeData, numDependencies);
    if (result != CUDA_SUCCESS)
        return result;
    if (numDependencies > 0 && (from == NULL || to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; result == CUDA_SUCCESS && i < numDependencies; i++) {
        struct soft_node *node = soft_node_of(to[i]), *on = soft_node_of(from[i]);
        if (node == NULL || on == NULL || node->graph != graph)
            result = CUDA_ERROR_INVALID_VALUE;
        else
            result = soft_node_depend(node, on);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                size_t numDependencies)
{
    return cuGraphAddDependencies_v2(hGraph, from, to, NULL, numDependencies);
}

static CUresult remove_edge(const struct soft_graph *graph, CUgraphNode from, CUgraphNode to)
{
    struct soft_node *node = soft_node_of(to);
    if (node == NULL || node->graph != graph)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t d = 0; d < node->dep_count; d++)
        if ((CUgraphNode)node->deps[d] == from) {
            node->dep_count--;
            memmove(&node->deps[d], &node->deps[d + 1],
                    (node->dep_count - d) * sizeof(struct soft_node *));
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from,
                                      const CUgraphNode *to, const CUgraphEdgeData *edgeData,
                                      size_t numDependencies)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUresult result = soft_edges_plain(edgeData, numDependencies);
    if (result != CUDA_SUCCESS)
        return result;
    if (numDependencies > 0 && (from == NULL || to == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (graph->memory != NULL)
        result = CUDA_ERROR_NOT_SUPPORTED;
    for (size_t i = 0; result == CUDA_SUCCESS && i < numDependencies; i++)
        result = remove_edge(graph, from[i], to[i]);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                   size_t numDependencies)
{
    return cuGraphRemoveDependencies_v2(hGraph, from, to, NULL, numDependencies);
}
