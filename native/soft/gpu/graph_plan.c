/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans of executable graphs: nodes, children's too, in an order that heeds dependencies, and
 * which of them share a lane.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph.h"

#define LANES_MOST 16u
#define NO_STEP    SIZE_MAX

struct walk {
    struct soft_plan *plan;
    size_t root;                   /* what roots of this graph follow; NO_STEP: nothing */
    const struct soft_node *cycle; /* a node on one */
};

static bool grow(void **array, size_t count, size_t *room, size_t bytes)
{
    if (count < *room)
        return true;
    size_t wider = *room == 0 ? 16 : *room * 2;
    void *grown = realloc(*array, wider * bytes);
    if (grown == NULL)
        return false;
    *array = grown;
    *room = wider;
    return true;
}

/* A step without dependencies so far; NO_STEP without memory. */
static size_t add_step(struct soft_plan *plan, struct soft_node *node)
{
    void *steps = plan->steps;
    if (!grow(&steps, plan->step_count, &plan->step_room, sizeof *plan->steps))
        return NO_STEP;
    plan->steps = steps;
    plan->steps[plan->step_count] = (struct soft_step){node, plan->dep_count, 0, 0};
    return plan->step_count++;
}

/* Of the step added last. */
static bool add_dep(struct soft_plan *plan, size_t on)
{
    void *deps = plan->deps;
    if (!grow(&deps, plan->dep_count, &plan->dep_room, sizeof *plan->deps))
        return false;
    plan->deps = deps;
    plan->deps[plan->dep_count++] = on;
    plan->steps[plan->step_count - 1].dep_count++;
    return true;
}

/* The step of a node, or the beginning of a child graph. */
static size_t begin_node(const struct walk *walk, struct soft_node *node)
{
    struct soft_plan *plan = walk->plan;
    size_t step = add_step(plan, node->type == CU_GRAPH_NODE_TYPE_GRAPH ? NULL : node);
    bool good = step != NO_STEP;
    for (size_t d = 0; good && d < node->dep_count; d++)
        good = add_dep(plan, node->deps[d]->step);
    if (good && node->dep_count == 0 && walk->root != NO_STEP)
        good = add_dep(plan, walk->root);
    return good ? step : NO_STEP;
}

static CUresult walk_graph(struct soft_graph *graph, struct walk *walk);

/* A child graph ends when all nodes that nobody in it waits for have ended. */
static CUresult walk_child(struct soft_node *node, struct walk *walk, size_t begin)
{
    struct soft_graph *child = node->u.child;
    struct walk inner = {walk->plan, begin, NULL};
    CUresult result = walk_graph(child, &inner);
    walk->cycle = inner.cycle;
    if (result != CUDA_SUCCESS)
        return result;
    for (size_t i = 0; i < child->count; i++)
        child->nodes[i]->mark = 0;
    for (size_t i = 0; i < child->count; i++)
        for (size_t d = 0; d < child->nodes[i]->dep_count; d++)
            child->nodes[i]->deps[d]->mark = 1;
    node->step = add_step(walk->plan, NULL);
    bool good = node->step != NO_STEP;
    for (size_t i = 0; good && i < child->count; i++)
        if (child->nodes[i]->mark == 0)
            good = add_dep(walk->plan, child->nodes[i]->step);
    if (good && child->count == 0)
        good = add_dep(walk->plan, begin);
    return good ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult emit(struct soft_node *node, struct walk *walk)
{
    node->step = begin_node(walk, node);
    if (node->step == NO_STEP)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (node->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return walk_child(node, walk, node->step);
    return CUDA_SUCCESS;
}

static size_t edges(const struct soft_graph *graph)
{
    size_t count = 0;
    for (size_t i = 0; i < graph->count; i++)
        count += graph->nodes[i]->dep_count;
    return count;
}

/* Depth first over dependencies, in order of creation: marks are 0 new, 1 on the path, 2 done. */
static CUresult walk_graph(struct soft_graph *graph, struct walk *walk)
{
    struct soft_node **stack = calloc(edges(graph) + graph->count + 1, sizeof *stack);
    if (stack == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = 0;
    for (size_t i = 0; i < graph->count && result == CUDA_SUCCESS; i++) {
        size_t depth = 0;
        if (graph->nodes[i]->mark == 0)
            stack[depth++] = graph->nodes[i];
        while (depth > 0 && result == CUDA_SUCCESS) {
            struct soft_node *at = stack[depth - 1];
            if (at->mark != 0) {
                depth--;
                if (at->mark == 1) {
                    at->mark = 2;
                    result = emit(at, walk);
                }
                continue;
            }
            at->mark = 1;
            for (size_t d = at->dep_count; d-- > 0;) {
                if (at->deps[d]->mark == 1) {
                    walk->cycle = at;
                    result = CUDA_ERROR_INVALID_VALUE;
                }
                if (at->deps[d]->mark == 0)
                    stack[depth++] = at->deps[d];
            }
        }
    }
    free(stack);
    return result;
}

struct lane {
    struct soft_ctx *ctx;
    size_t last; /* step */
};

/* The lane of a step that may go on in it: the first of its predecessors that is its lane's last.
 */
static unsigned lane_of(const struct soft_plan *plan, const struct soft_step *step,
                        const struct lane *lanes, unsigned count)
{
    const struct soft_ctx *ctx = step->node != NULL ? step->node->ctx : NULL;
    for (size_t d = 0; d < step->dep_count; d++) {
        size_t on = plan->deps[step->dep_first + d];
        unsigned lane = plan->steps[on].lane;
        if (lanes[lane].last == on &&
            (ctx == NULL || lanes[lane].ctx == NULL || lanes[lane].ctx == ctx))
            return lane;
    }
    if (count < LANES_MOST)
        return count;
    /* as many as can be: behind others, which is an order too */
    for (unsigned i = 0; i < count; i++) {
        unsigned lane = (unsigned)((size_t)(step - plan->steps) + i) % count;
        if (ctx == NULL || lanes[lane].ctx == NULL || lanes[lane].ctx == ctx)
            return lane;
    }
    return count;
}

static CUresult spread(struct soft_plan *plan)
{
    struct lane *lanes = calloc(plan->step_count + 1, sizeof *lanes);
    if (lanes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    unsigned count = 0;
    for (size_t i = 0; i < plan->step_count; i++) {
        struct soft_step *step = &plan->steps[i];
        step->lane = lane_of(plan, step, lanes, count);
        if (step->lane == count)
            lanes[count++].ctx = NULL;
        if (step->node != NULL && step->node->ctx != NULL)
            lanes[step->lane].ctx = step->node->ctx;
        lanes[step->lane].last = i;
    }
    plan->lane_count = count;
    plan->lane_ctx = calloc(count + 1, sizeof(struct soft_ctx *));
    for (unsigned i = 0; plan->lane_ctx != NULL && i < count; i++)
        plan->lane_ctx[i] = lanes[i].ctx;
    free(lanes);
    return plan->lane_ctx == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult soft_plan_make(struct soft_graph *graph, struct soft_plan **out,
                        const struct soft_node **cycle)
{
    struct soft_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    plan->refs = 1;
    struct walk walk = {plan, NO_STEP, NULL};
    CUresult result = walk_graph(graph, &walk);
    *cycle = walk.cycle;
    if (result == CUDA_SUCCESS)
        result = spread(plan);
    if (result == CUDA_SUCCESS)
        *out = plan;
    else
        soft_plan_unref(plan);
    return result;
}

void soft_plan_unref(struct soft_plan *plan)
{
    if (plan == NULL || --plan->refs > 0)
        return;
    free(plan->steps);
    free(plan->deps);
    free((void *)plan->lane_ctx);
    free(plan);
}
